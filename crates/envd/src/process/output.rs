//! Reads what a process prints.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::event::{Chunk, Source};
use super::hub::Hub;
use crate::push::LineLog;

/// Most bytes in one piece of output: a full pipe.
const CHUNK_BYTES: usize = 64 << 10;
/// Pieces up to this size are copied out of the buffer, so that a queue of small pieces does not hold large buffers.
const COPY_BYTES: usize = 8 << 10;
/// Pieces to read before others get their turn. All of the daemon shares one thread.
const BURST: usize = 8;

/// One output of a process: our end of a pipe, or the terminal.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) source: Source,
    /// Does not block.
    pub(super) file: Arc<AsyncFd<OwnedFd>>,
}

impl Output {
    /// Passes everything on until the end of the output; after `drain` is cancelled, only until there is nothing to read
    /// at the moment.
    pub(super) async fn pump(self, hub: &Hub, mut log: LineLog, drain: &CancellationToken) {
        self.pass_on(hub, &mut log, drain).await;
        log.finish();
    }

    async fn pass_on(&self, hub: &Hub, log: &mut LineLog, drain: &CancellationToken) {
        let mut buffer = Vec::new();
        let mut pieces = 0;
        loop {
            if pieces == BURST {
                pieces = 0;
                tokio::task::yield_now().await;
            }
            pieces += 1;
            buffer.reserve(CHUNK_BYTES);
            let length = self.read(&mut buffer);
            log.feed(&buffer);
            match length {
                Ok(0) => return,
                Ok(length) if length <= COPY_BYTES => {
                    hub.publish(self.chunk(Bytes::copy_from_slice(&buffer))).await;
                    buffer.clear();
                }
                Ok(_) => hub.publish(self.chunk(Bytes::from(std::mem::take(&mut buffer)))).await,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if drain.is_cancelled() {
                        return;
                    }
                    // An idle process holds no buffer.
                    buffer = Vec::new();
                    tokio::select! {
                        ready = self.readable() => if ready.is_err() { return },
                        () = drain.cancelled() => {}
                    }
                }
                // A terminal that nobody has open any more says EIO. Other errors cannot be helped either.
                Err(_) => return,
            }
        }
    }

    fn chunk(&self, data: Bytes) -> Chunk {
        Chunk { source: self.source, data }
    }

    fn read(&self, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
        rustix::io::read(self.file.get_ref(), spare_capacity(buffer))
    }

    /// Waits until there is something to read. May be wrong, so the next read may find nothing.
    async fn readable(&self) -> io::Result<()> {
        let mut guard = self.file.readable().await?;
        // The read before said that there is nothing; forget what was known before that.
        guard.clear_ready();
        drop(guard);
        Ok(())
    }
}
