//! The heap while large files pass through it.
//!
//! Buffers of some hundred kilobytes come and go a few thousand times a second. Getting fresh pages for each of them
//! costs more than copying the data, so the heap keeps what is freed; and when the last large transfer is over, it gives
//! all of that back: what the daemon holds is part of every snapshot.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Largest allocation that is served from freed memory, in bytes: a few times the largest buffer.
const LARGEST: u32 = 4 << 20;
/// Most freed memory that is kept, in bytes.
const KEPT: u32 = 16 << 20;

/// A file of this many bytes is a large one: it passes in more time than giving memory back takes.
const LARGE: u64 = 8 << 20;

static LARGE_TRANSFERS: AtomicUsize = AtomicUsize::new(0);

/// Prepares the heap.
pub(super) fn prepare() {
    sys::heap_limits::reuse(LARGEST, KEPT);
}

/// A large transfer, for as long as it goes on.
#[derive(Debug)]
pub(super) struct LargeTransfer(());

impl LargeTransfer {
    /// Begins one if it is one. What has no known length is.
    pub(super) fn begin(length: Option<u64>) -> Option<Self> {
        if length.is_some_and(|length| length < LARGE) {
            return None;
        }
        LARGE_TRANSFERS.fetch_add(1, Ordering::Relaxed);
        Some(Self(()))
    }
}

impl Drop for LargeTransfer {
    fn drop(&mut self) {
        if LARGE_TRANSFERS.fetch_sub(1, Ordering::Relaxed) == 1
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn_blocking(sys::heap::trim);
        }
    }
}
