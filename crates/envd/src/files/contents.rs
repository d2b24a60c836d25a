//! Contents of a file on their way out.
//!
//! Each piece is read by a short piece of blocking work while the piece before it is being sent, so that the disk and
//! the socket are busy at the same time and a client that reads slowly holds two buffers, but no thread.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body::{Body, Frame, SizeHint};
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::memory::{self, Transfer};

/// Bytes read at once. Large enough that changing threads costs nothing, small enough for the processor's cache.
pub(super) const PIECE: usize = 256 << 10;

/// A part of what is sent.
#[derive(Debug)]
pub(super) enum Segment {
    /// These bytes.
    Memory(Bytes),
    /// Bytes of the file.
    File {
        /// Where to begin; where the last reading ended when absent.
        start: Option<u64>,
        /// How many; up to the end when absent.
        length: Option<u64>,
    },
}

/// Segments, one after the other.
#[derive(Debug)]
pub(super) struct Reading {
    file: File,
    segments: VecDeque<Segment>,
    buffers: Arc<Buffers>,
}

impl Reading {
    pub(super) fn new(file: File, segments: impl IntoIterator<Item = Segment>) -> Self {
        Self { file, segments: segments.into_iter().collect(), buffers: Arc::default() }
    }

    /// How many bytes there will be; none when that is not known.
    fn length(&self) -> Option<u64> {
        self.segments.iter().try_fold(0_u64, |sum, segment| match segment {
            Segment::Memory(bytes) => Some(sum + bytes.len() as u64),
            Segment::File { length, .. } => length.map(|length| sum + length),
        })
    }
}

/// Something that can be made piece by piece, by work that may block.
pub(super) trait Pieces: Send + 'static {
    /// The next piece, which is not empty, until there are none.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    fn next(&mut self) -> io::Result<Option<Bytes>>;
}

impl Pieces for Reading {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let (start, length) = match self.segments.front_mut() {
                None => return Ok(None),
                Some(Segment::Memory(bytes)) => {
                    let bytes = std::mem::take(bytes);
                    self.segments.pop_front();
                    if bytes.is_empty() {
                        continue;
                    }
                    return Ok(Some(bytes));
                }
                Some(Segment::File { start, length }) => (start, length),
            };
            if let Some(start) = start.take() {
                self.file.seek(SeekFrom::Start(start))?;
            }
            let wanted = length.map_or(PIECE, |length| usize::try_from(length).unwrap_or(PIECE).min(PIECE));
            if wanted == 0 {
                self.segments.pop_front();
                continue;
            }
            let mut buffer = self.buffers.take();
            let read = read_up_to(&self.file, &mut buffer, wanted)?;
            if let Some(length) = length {
                if read == 0 {
                    // Somebody cut the file. The client was promised more, so it must not take this for the end.
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                *length -= read as u64;
            } else if read == 0 {
                self.segments.pop_front();
                continue;
            }
            return Ok(Some(Bytes::from_owner(Lent { buffer, home: Arc::clone(&self.buffers) })));
        }
    }
}

/// Reads until `buffer` holds `wanted` bytes or the file ends, and says how many were added.
pub(super) fn read_up_to(file: &File, buffer: &mut Vec<u8>, wanted: usize) -> io::Result<usize> {
    let before = buffer.len();
    while buffer.len() < wanted {
        buffer.reserve_exact(wanted - buffer.len());
        // Straight into memory that nobody cleared before.
        match rustix::io::read(file, rustix::buffer::spare_capacity(buffer)) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // A used buffer may have had room for more.
    buffer.truncate(wanted.max(before));
    Ok(buffer.len() - before)
}

/// The same, compressed.
#[derive(Debug)]
pub(super) struct Compressed {
    reading: Reading,
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl Compressed {
    /// Compresses fast rather than well: the client waits for us, and the network is near.
    pub(super) fn new(reading: Reading) -> Self {
        Self { reading, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl Pieces for Compressed {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        while let Some(encoder) = &mut self.encoder {
            match self.reading.next()? {
                Some(piece) => encoder.write_all(&piece)?,
                None => {
                    return match self.encoder.take() {
                        Some(encoder) => Ok(Some(encoder.finish()?.into())),
                        None => Ok(None),
                    };
                }
            }
            if !encoder.get_ref().is_empty() {
                return Ok(Some(std::mem::take(encoder.get_mut()).into()));
            }
        }
        Ok(None)
    }
}

/// Buffers of one download, used again and again: fresh memory would have to be cleared by the kernel each time.
#[derive(Debug, Default)]
struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }
}

/// A buffer that goes back where it came from.
struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Pieces as the body of an answer, each made while the one before is sent.
#[derive(Debug)]
pub(super) struct PiecesBody<P> {
    state: State<P>,
    /// Bytes to come, when known.
    left: Option<u64>,
    _transfer: Transfer,
}

#[derive(Debug)]
enum State<P> {
    Resting(P),
    Working(JoinHandle<(P, io::Result<Option<Bytes>>)>),
    Done,
}

impl PiecesBody<Reading> {
    /// A body of known or unknown length.
    pub(super) fn plain(reading: Reading) -> Self {
        let left = reading.length();
        Self { left, _transfer: Transfer::begin(), state: State::Resting(reading) }
    }
}

impl PiecesBody<Compressed> {
    /// A body of unknown length.
    pub(super) fn compressed(reading: Reading) -> Self {
        Self { left: None, _transfer: Transfer::begin(), state: State::Resting(Compressed::new(reading)) }
    }
}

impl<P: Pieces + Unpin> Body for PiecesBody<P> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, State::Done) {
                State::Done => return Poll::Ready(None),
                State::Resting(pieces) => this.state = State::Working(work(pieces)),
                State::Working(mut handle) => {
                    let polled = Pin::new(&mut handle).poll(context);
                    if polled.is_pending() {
                        this.state = State::Working(handle);
                    }
                    let (pieces, outcome) = ready!(polled).map_err(io::Error::other)?;
                    let Some(piece) = outcome? else { return Poll::Ready(None) };
                    memory::passed(piece.len());
                    this.left = this.left.map(|left| left.saturating_sub(piece.len() as u64));
                    if this.left != Some(0) {
                        this.state = State::Working(work(pieces));
                    }
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Done)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn work<P: Pieces>(mut pieces: P) -> JoinHandle<(P, io::Result<Option<Bytes>>)> {
    tokio::task::spawn_blocking(move || {
        let outcome = pieces.next();
        (pieces, outcome)
    })
}
