//! The threads that fill pages before they are touched.

use std::cell::Cell;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use build::{PAGE_BYTES, Run};

use super::PageServerError;
use super::shared::{Shared, lock};
use super::stats::add as add_count;
use crate::region::Region;
use crate::to_usize;
use crate::uffd::Filled;

/// How much is read at once, in bytes: enough for storage to be fast, and not more than stays in a processor's cache until it
/// is verified and filled.
const READ_BYTES: u64 = 256 << 10;

/// How much is filled at once, in bytes. A fault waits for that long at most, and below some 100 KiB the system call
/// itself would be felt.
const FILL_BYTES: u64 = 256 << 10;

/// How many threads there are at most. Most of the time goes into the kernel's finding room for a page, which one
/// processor does more slowly than storage can read; more threads would take the processors from the guest.
const THREADS: usize = 2;

/// How long to wait for the monitor to go on giving pages away.
const PAUSE: Duration = Duration::from_micros(50);

/// What is still to be done.
#[derive(Debug, Default)]
pub(super) struct Queue {
    ranges: VecDeque<Range<u64>>,
    /// How many threads there are.
    threads: usize,
}

impl Queue {
    /// Takes the next pages, at most `most`.
    fn pop(&mut self, most: u64) -> Option<Range<u64>> {
        let front = self.ranges.front_mut()?;
        if front.end - front.start <= most {
            return self.ranges.pop_front();
        }
        let piece = front.start..front.start + most;
        front.start = piece.end;
        Some(piece)
    }
}

thread_local! {
    static CURRENT: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is a prefetch thread.
pub(super) fn is_current() -> bool {
    CURRENT.get()
}

pub(super) fn add(shared: &Arc<Shared>, ranges: Vec<Range<u64>>) -> Result<(), PageServerError> {
    let mut queue = lock(&shared.prefetch);
    let end = shared.source.pages();
    let inside = ranges.into_iter().map(|range| range.start..range.end.min(end));
    queue.ranges.extend(inside.filter(|range| !range.is_empty()));
    if shared.stopping.load(Ordering::Acquire) {
        queue.ranges.clear();
    }
    // Huge pages are few, and each is a buffer's worth.
    let most = if shared.largest_page() > PAGE_BYTES { 1 } else { THREADS };
    let pages = queue.ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.end - range.start));
    let pieces = pages.div_ceil(READ_BYTES / PAGE_BYTES);
    let pieces = usize::try_from(pieces).unwrap_or(most);
    while queue.threads < most.min(pieces) {
        let shared = Arc::clone(shared);
        thread::Builder::new()
            .name("prefetch".to_owned())
            .spawn(move || {
                CURRENT.set(true);
                shared.guard(|| {
                    Prefetcher::new(&shared).run();
                    Ok(())
                });
            })
            .map_err(|source| PageServerError::System { what: "starting a thread", source })?;
        // It cannot end before we let go of the queue.
        queue.threads += 1;
    }
    Ok(())
}

pub(super) fn wait(shared: &Shared, timeout: Duration) -> bool {
    let queue = lock(&shared.prefetch);
    let (queue, _) = shared
        .prefetch_ended
        .wait_timeout_while(queue, timeout, |queue| queue.threads > 0)
        .unwrap_or_else(PoisonError::into_inner);
    queue.threads == 0
}

pub(super) fn cancel(shared: &Shared) {
    let mut queue = lock(&shared.prefetch);
    queue.ranges.clear();
    shared.prefetch_cancelled.store(true, Ordering::Release);
    let queue = shared
        .prefetch_ended
        .wait_while(queue, |queue| queue.threads > 0)
        .unwrap_or_else(PoisonError::into_inner);
    shared.prefetch_cancelled.store(false, Ordering::Release);
    drop(queue);
}

/// Why prefetching does not go on.
enum End {
    /// Nobody wants it any more, or the monitor has ended.
    Unwanted,
    /// It does not work.
    Failed(PageServerError),
}

impl From<PageServerError> for End {
    fn from(error: PageServerError) -> Self {
        Self::Failed(error)
    }
}

struct Prefetcher<'a> {
    shared: &'a Shared,
    buffer: Box<[u8]>,
    /// Whether it is no longer counted.
    left: Cell<bool>,
}

impl Drop for Prefetcher<'_> {
    fn drop(&mut self) {
        if !self.left.get() {
            self.leave(&mut lock(&self.shared.prefetch));
        }
    }
}

impl<'a> Prefetcher<'a> {
    fn new(shared: &'a Shared) -> Self {
        let buffer = vec![0; to_usize(READ_BYTES.max(shared.largest_page()))].into();
        Self { shared, buffer, left: Cell::new(false) }
    }

    fn leave(&self, queue: &mut Queue) {
        self.left.set(true);
        queue.threads -= 1;
        self.shared.prefetch_ended.notify_all();
    }

    fn run(&mut self) {
        while let Some(range) = self.next() {
            match self.range(range) {
                Ok(()) => {}
                Err(End::Unwanted) => lock(&self.shared.prefetch).ranges.clear(),
                Err(End::Failed(error)) => {
                    tracing::warn!(%error, "prefetching was given up");
                    add_count(&self.shared.counters.prefetch_failures, 1);
                    lock(&self.shared.prefetch).ranges.clear();
                }
            }
        }
    }

    /// The next range. After `None`, which is decided with the queue in hand, somebody may start another thread.
    fn next(&self) -> Option<Range<u64>> {
        let mut queue = lock(&self.shared.prefetch);
        let next = queue.pop(self.buffer.len() as u64 / PAGE_BYTES);
        if next.is_none() {
            self.leave(&mut queue);
        }
        next
    }

    fn check_wanted(&self) -> Result<(), End> {
        let unwanted = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        if unwanted(&self.shared.stopping) || unwanted(&self.shared.prefetch_cancelled) {
            return Err(End::Unwanted);
        }
        Ok(())
    }

    fn range(&mut self, range: Range<u64>) -> Result<(), End> {
        let mut page = range.start;
        while page < range.end {
            self.check_wanted()?;
            let Some(&region) = self.shared.region_of(page) else {
                let later = |region: &Region| Some(region.first_page()).filter(|first| *first > page);
                let Some(next) = self.shared.regions.iter().filter_map(later).min() else { break };
                page = next;
                continue;
            };
            let unit = region.page_size / PAGE_BYTES;
            let end = range.end.next_multiple_of(unit).min(region.first_page() + region.pages());
            page = self.piece(region, page - page % unit, end)?;
        }
        Ok(())
    }

    /// Fills some pages of a region from `first` on. The page to go on with.
    fn piece(&mut self, region: Region, first: u64, end: u64) -> Result<u64, End> {
        let shared = self.shared;
        let (known, run) = shared.known(first, (end - first).min(self.buffer.len() as u64 / PAGE_BYTES));
        if known {
            return Ok(first + run);
        }
        let mut pages = 0;
        if region.huge() {
            pages = region.page_size / PAGE_BYTES;
            if !shared.load(first, &mut self.buffer[..to_usize(region.page_size)])? {
                return Ok(first + pages);
            }
        }
        while pages < run {
            let page = first + pages;
            match shared.source.run(page) {
                Run::Zero(zero) if pages == 0 => return Ok(first.saturating_add(zero)),
                Run::Zero(_) => break,
                Run::Data(data) => {
                    let data = data.clamp(1, run - pages);
                    let part = to_usize(pages * PAGE_BYTES)..to_usize((pages + data) * PAGE_BYTES);
                    shared.load(page, &mut self.buffer[part])?;
                    pages += data;
                }
            }
        }
        self.install(region, first, pages)?;
        Ok(first + pages)
    }

    /// Fills pages with what is in the buffer.
    fn install(&self, region: Region, first: u64, pages: u64) -> Result<(), End> {
        let shared = self.shared;
        let unit = region.page_size / PAGE_BYTES;
        let mut done = 0;
        while done < pages {
            self.check_wanted()?;
            while shared.urgent.load(Ordering::Acquire) {
                thread::yield_now();
            }
            let gate = shared.gate.read().unwrap_or_else(PoisonError::into_inner);
            let page = first + done;
            let (known, run) = shared.known(page, (pages - done).min((FILL_BYTES / PAGE_BYTES).max(unit)));
            if known {
                done += run;
                continue;
            }
            let bytes = &self.buffer[to_usize(done * PAGE_BYTES)..to_usize((done + run) * PAGE_BYTES)];
            let address = region.addr + (page - region.first_page()) * PAGE_BYTES;
            let filled = shared
                .fill(address, bytes, true)
                .map_err(|source| PageServerError::System { what: "prefetching pages", source })?;
            match filled {
                Filled::Bytes(bytes) => {
                    let filled = bytes / PAGE_BYTES;
                    shared.installed.insert(page..page + filled);
                    add_count(&shared.counters.prefetched_pages, filled);
                    done += filled;
                }
                Filled::Present => {
                    shared.installed.insert(page..page + unit);
                    done += unit;
                }
                Filled::Changing => {
                    drop(gate);
                    thread::sleep(PAUSE);
                }
                Filled::Gone => return Err(End::Unwanted),
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Whether a page was filled or given away, and how many from it on, at most `most`, are like it.
    fn known(&self, page: u64, most: u64) -> (bool, u64) {
        let known = |page| self.installed.contains(page) || self.removed.contains(page);
        let first = known(page);
        (first, (1..most).find(|more| known(page + more) != first).unwrap_or(most))
    }
}
