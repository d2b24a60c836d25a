//! The heap while large files pass through it.
//!
//! Buffers of some hundred kilobytes come and go a few thousand times a second. Getting fresh pages for each of them
//! costs more than copying the data, so the heap keeps what is freed; and when the last transfer is over, it gives all
//! of that back: what the daemon holds is part of every snapshot.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Largest allocation that is served from freed memory, in bytes: a few times the largest buffer.
const LARGEST: u32 = 4 << 20;
/// Most freed memory that is kept, in bytes.
const KEPT: u32 = 16 << 20;

/// Bytes that have to pass before giving memory back is worth its time.
const WORTHWHILE: usize = 8 << 20;

static TRANSFERS: AtomicUsize = AtomicUsize::new(0);
static PASSED: AtomicUsize = AtomicUsize::new(0);

/// Prepares the heap.
pub(super) fn prepare() {
    sys::heap_limits::reuse(LARGEST, KEPT);
}

/// Notes that so many bytes have passed.
pub(super) fn passed(bytes: usize) {
    PASSED.fetch_add(bytes, Ordering::Relaxed);
}

/// A transfer, for as long as it goes on.
#[derive(Debug)]
pub(super) struct Transfer(());

impl Transfer {
    /// Begins one.
    pub(super) fn begin() -> Self {
        TRANSFERS.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if TRANSFERS.fetch_sub(1, Ordering::Relaxed) == 1
            && PASSED.load(Ordering::Relaxed) >= WORTHWHILE
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            PASSED.store(0, Ordering::Relaxed);
            runtime.spawn_blocking(sys::heap::trim);
        }
    }
}
