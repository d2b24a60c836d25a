//! Notices whether bytes still move, without looking at a clock for each of them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Counts the operations that moved bytes. Whoever wants to know reads it twice.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    reads: AtomicU64,
    writes: AtomicU64,
    broken: AtomicBool,
}

impl Meter {
    /// Reads so far.
    pub(crate) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Whether a write failed, so that nothing more can be sent.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Reads and writes so far.
    pub(crate) fn operations(&self) -> u64 {
        self.reads().wrapping_add(self.writes.load(Ordering::Relaxed))
    }
}

/// A TCP connection with a meter.
#[derive(Debug)]
pub(crate) struct Metered {
    io: TokioIo<TcpStream>,
    meter: Arc<Meter>,
    write_side: WriteSide,
}

/// What a failed write means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteSide {
    /// The end.
    Strict,
    /// That the peer wants no more, while what it said before can still be read. Further writes go nowhere.
    Lenient,
}

impl Metered {
    /// A connection on which a failed write is an error.
    pub(crate) fn new(stream: TcpStream, meter: Arc<Meter>) -> Self {
        Self { io: TokioIo::new(stream), meter, write_side: WriteSide::Strict }
    }

    /// A connection on which only reading tells the end. A server that refuses an upload answers and closes while
    /// more is on its way, which resets the connection for whoever sends; its answer is still in our receive queue.
    pub(crate) fn reading_tells(stream: TcpStream, meter: Arc<Meter>) -> Self {
        Self { write_side: WriteSide::Lenient, ..Self::new(stream, meter) }
    }

    /// `offered` is how many bytes were to be written.
    fn wrote(&mut self, result: Poll<io::Result<usize>>, offered: usize) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(_)) => {
                self.meter.writes.fetch_add(1, Ordering::Relaxed);
                result
            }
            Poll::Ready(Err(_)) if self.write_side == WriteSide::Lenient => {
                self.meter.broken.store(true, Ordering::Relaxed);
                Poll::Ready(Ok(offered))
            }
            other => other,
        }
    }
}

impl Read for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if matches!(result, Poll::Ready(Ok(()))) {
            self.meter.reads.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl Write for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.meter.is_broken() {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(result, buf.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.io).poll_shutdown(cx) {
            Poll::Ready(Err(_)) if self.meter.is_broken() => Poll::Ready(Ok(())),
            other => other,
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let offered = bufs.iter().map(|buf| buf.len()).sum();
        if self.meter.is_broken() {
            return Poll::Ready(Ok(offered));
        }
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(result, offered)
    }
}
