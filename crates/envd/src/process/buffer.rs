//! Buffers that are used again.
//!
//! A busy output needs a buffer of some 64 KiB for each piece it reads and another one for each piece it sends. Taken
//! from the allocator and given back each time, they cost more page faults than the copying costs time.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// Most bytes in one piece of output: a full pipe.
const CHUNK_BYTES: usize = 64 << 10;
/// Contents up to this size are better copied out of a buffer, so that many small pieces do not hold many buffers.
pub(super) const COPY_BYTES: usize = 8 << 10;
/// Room in a buffer: for a piece, and for a piece in base64 with what is around it.
const BUFFER_BYTES: usize = CHUNK_BYTES / 3 * 4 + 128;
/// Buffers to keep. More than this many are in use at once only when several outputs are busy.
const MAX_KEPT: usize = 8;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer that comes back when it is dropped, or when the last [`Bytes`] made of it is.
#[derive(Debug)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    /// An empty buffer.
    pub(super) fn take() -> Self {
        let kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self(kept.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES)))
    }

    /// What is in it.
    pub(super) fn contents(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// Its contents, to be shared.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// Frees the buffers that nobody uses.
pub(crate) fn release() {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut contents = std::mem::take(&mut self.0);
        contents.clear();
        let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has grown was used for something unusual.
        if kept.len() < MAX_KEPT && contents.capacity() <= 2 * BUFFER_BYTES {
            kept.push(contents);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_frozen_stays_until_nobody_has_it() {
        let mut buffer = Buffer::take();
        buffer.contents().extend_from_slice(b"first");
        let bytes = buffer.freeze();
        let part = bytes.slice(1..3);
        drop(bytes);
        let mut other = Buffer::take();
        other.contents().extend_from_slice(b"other");
        assert_eq!((&part[..], other.as_ref()), (&b"ir"[..], &b"other"[..]));
        drop(part);
        assert!(Buffer::take().contents().is_empty());
    }
}
