//! Fills a guest's memory when it is touched.
//!
//! Several threads share one userfaultfd. The *fault thread* waits for the monitor's threads to touch pages that are not
//! there, and for news that pages were given away. *Prefetch threads*, which exist only while there is something to do,
//! fill pages before they are touched.
//!
//! A page is in one of three states, and only goes on in this order:
//!
//! | state | what fills it |
//! |---|---|
//! | untouched | the image, once |
//! | installed | should it be missing again, somebody has dropped it: zeros |
//! | removed | zeros, whatever the image has |
//!
//! The one race that matters is between *removed* and a prefetch thread, which has read a page of the image and is
//! about to fill it in. The monitor's thread that gives a page away waits until the news was read, then drops the page.
//! So news are read, and pages are prefetched, only while nobody does the other (the gate): a page that is prefetched while the gate is
//! held is dropped later, and one that was removed before is seen to be. Faults need no gate: the thread that fills is
//! the one that reads.
//!
//! When something fails, the server stops answering and says so once: its owner ends the monitor. Until the server is
//! dropped the userfaultfd stays open, so that the guest waits and reads nothing wrong.

mod error;
mod faults;
mod install;
mod prefetch;
mod shared;
mod stats;
mod working_set;

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use build::Pages;

use crate::handshake::Handshake;
use crate::region::Region;

pub use error::PageServerError;
pub use stats::Stats;

use shared::Shared;

/// How a page server does its work.
pub struct Options {
    /// Called once, from one of the server's threads, when it cannot go on: the monitor has to be ended at once, as its
    /// guest waits for ever. Not called when the monitor ends or the server is stopped.
    pub on_failure: Box<dyn FnOnce(PageServerError) + Send>,
    /// Whether to remember which pages were touched.
    pub record: bool,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Options").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Serves one monitor's memory from an image. Stopped when dropped, which must not be before the monitor has ended.
#[derive(Debug)]
pub struct PageServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl PageServer {
    /// Begins to answer faults.
    ///
    /// # Errors
    /// When the monitor's regions are larger than the image, or the system has no room for a thread or a descriptor.
    pub fn start(
        handshake: Handshake,
        source: Arc<dyn Pages>,
        options: Options,
    ) -> Result<Self, PageServerError> {
        let shared = Arc::new(Shared::new(handshake, source, options)?);
        let thread = thread::Builder::new()
            .name("page-server".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || faults::run(&shared)
            })
            .map_err(|source| PageServerError::System { what: "starting a thread", source })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Fills pages of the image in the order of `ranges`, after those that were asked for before, beside the faults.
    /// Zero pages and pages that are there are left out. A page that cannot be read ends this quietly: should it be
    /// needed, its fault will tell.
    ///
    /// # Errors
    /// When there is no room for a thread.
    pub fn prefetch(&self, ranges: Vec<Range<u64>>) -> Result<(), PageServerError> {
        prefetch::add(&self.shared, ranges)
    }

    /// Waits until everything that was asked for was prefetched, or given up. False when that takes longer.
    #[must_use]
    pub fn wait_prefetched(&self, timeout: Duration) -> bool {
        prefetch::wait(&self.shared, timeout)
    }

    /// Forgets what is still to be prefetched, and waits for the pieces (of 1 or 2 MiB) in hand.
    pub fn cancel_prefetch(&self) {
        prefetch::cancel(&self.shared);
    }

    /// The pages whose faults were answered, in the order of their first, joined where neighbours follow each other; at
    /// most the first 65,536. Pages that were prefetched in time never fault: they belong to what is prefetched next
    /// time too, and only the caller knows them.
    #[must_use]
    pub fn working_set(&self) -> Vec<Range<u64>> {
        self.shared.working_set.as_ref().map(|set| shared::lock(set).ranges()).unwrap_or_default()
    }

    /// The pages that the monitor has given away since the start, ascending. Whatever the image has for them, the guest
    /// has something else now: they may have changed.
    #[must_use]
    pub fn removed(&self) -> Vec<Range<u64>> {
        // Not in the middle of news being read.
        let _gate = self.shared.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.shared.removed.ranges()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.get()
    }

    /// Where the monitor has mapped the memory.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.shared.regions
    }

    /// The memory, when the monitor sent it.
    #[must_use]
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        self.shared.memfd.as_ref().map(AsFd::as_fd)
    }

    /// The monitor's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// Ends it. To be called when the monitor has ended.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.interrupt();
        // A failure may drop the server from one of its own threads.
        if prefetch::is_current() {
            return;
        }
        prefetch::cancel(&self.shared);
        if thread.thread().id() != thread::current().id() {
            // It catches its own panics.
            let _ = thread.join();
        }
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.end();
    }
}
