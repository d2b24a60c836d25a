//! What a page server counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a page server has done so far, in pages of 4096 bytes where it says pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Faults that were answered, several for one page counted apart.
    pub faults: u64,
    /// Of those, faults for a page that somebody else had filled in between.
    pub already_present: u64,
    /// Pages that faults have filled from the image.
    pub fault_pages: u64,
    /// Pages that faults have filled with zeros.
    pub zero_pages: u64,
    /// Pages that were prefetched.
    pub prefetched_pages: u64,
    /// Times that pages were given away.
    pub removals: u64,
    /// Times that an answer had to wait for such news.
    pub retries: u64,
    /// Times that prefetching was given up because pages could not be read.
    pub prefetch_failures: u64,
}

/// The same, while it changes.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) faults: AtomicU64,
    pub(super) already_present: AtomicU64,
    pub(super) fault_pages: AtomicU64,
    pub(super) zero_pages: AtomicU64,
    pub(super) prefetched_pages: AtomicU64,
    pub(super) removals: AtomicU64,
    pub(super) retries: AtomicU64,
    pub(super) prefetch_failures: AtomicU64,
}

/// Counts on. Nothing is decided by these numbers.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Counters {
    pub(super) fn get(&self) -> Stats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            faults: get(&self.faults),
            already_present: get(&self.already_present),
            fault_pages: get(&self.fault_pages),
            zero_pages: get(&self.zero_pages),
            prefetched_pages: get(&self.prefetched_pages),
            removals: get(&self.removals),
            retries: get(&self.retries),
            prefetch_failures: get(&self.prefetch_failures),
        }
    }
}
