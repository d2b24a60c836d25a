//! What the threads of a page server share.

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use build::{PAGE_BYTES, Pages};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::prefetch::Queue;
use super::stats::Counters;
use super::working_set::WorkingSet;
use super::{Options, PageServerError};
use crate::bitmap::Bitmap;
use crate::handshake::Handshake;
use crate::region::Region;
use crate::uffd::Uffd;

/// Called when the server cannot go on.
type OnFailure = Box<dyn FnOnce(PageServerError) + Send>;

pub(super) struct Shared {
    pub(super) uffd: Uffd,
    pub(super) memfd: Option<OwnedFd>,
    pub(super) regions: Vec<Region>,
    pub(super) pid: u32,
    /// Readable when the monitor has ended, where the kernel has such a thing.
    pub(super) monitor: Option<OwnedFd>,
    pub(super) source: Arc<dyn Pages>,

    /// Whether pages can be installed so that the first write to them is noticed. Until the kernel says no.
    pub(super) protect: AtomicBool,
    /// Pages that were filled, by whomever.
    pub(super) installed: Bitmap,
    /// Pages that were given away.
    pub(super) removed: Bitmap,
    /// Held for writing while news are read, and for reading while pages are prefetched.
    pub(super) gate: RwLock<()>,
    /// The fault thread wants the gate.
    pub(super) urgent: AtomicBool,

    pub(super) prefetch: Mutex<Queue>,
    pub(super) prefetch_ended: Condvar,
    /// Set to end what is being prefetched.
    pub(super) prefetch_cancelled: AtomicBool,

    pub(super) working_set: Option<Mutex<WorkingSet>>,
    pub(super) counters: Counters,

    /// Set when no thread should go on.
    pub(super) stopping: AtomicBool,
    /// Readable when the fault thread should look at `stopping`.
    pub(super) wakeup: OwnedFd,
    on_failure: Mutex<Option<OnFailure>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("regions", &self.regions).finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(
        handshake: Handshake,
        source: Arc<dyn Pages>,
        options: Options,
    ) -> Result<Self, PageServerError> {
        let end =
            handshake.regions.iter().map(|region| region.first_page() + region.pages()).max().unwrap_or(0);
        // The monitor says how large its memory is. What we keep for each page must not depend on that alone.
        let pages = source.pages();
        if end > pages {
            return Err(PageServerError::TooLarge { end, pages });
        }
        let wakeup = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| PageServerError::System { what: "making an eventfd", source: error.into() })?;
        Ok(Self {
            uffd: Uffd::new(handshake.uffd),
            memfd: handshake.memfd,
            regions: handshake.regions,
            pid: handshake.pid,
            monitor: monitor(handshake.pid),
            source,
            protect: AtomicBool::new(true),
            installed: Bitmap::new(end),
            removed: Bitmap::new(end),
            gate: RwLock::new(()),
            urgent: AtomicBool::new(false),
            prefetch: Mutex::default(),
            prefetch_ended: Condvar::new(),
            prefetch_cancelled: AtomicBool::new(false),
            working_set: options.record.then(Mutex::default),
            counters: Counters::default(),
            stopping: AtomicBool::new(false),
            wakeup,
            on_failure: Mutex::new(Some(options.on_failure)),
        })
    }

    /// The region with an address of the monitor.
    pub(super) fn region_at(&self, address: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.page_at(address).is_some())
    }

    /// The region with a page of the image.
    pub(super) fn region_of(&self, page: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.addr_of(page).is_some())
    }

    /// The bytes that the largest page has.
    pub(super) fn largest_page(&self) -> u64 {
        self.regions.iter().map(|region| region.page_size).max().unwrap_or(PAGE_BYTES)
    }

    /// Makes the fault thread look up.
    pub(super) fn interrupt(&self) {
        // Full means that it is readable already.
        let _ = rustix::io::write(&self.wakeup, &1_u64.to_ne_bytes());
    }

    /// Runs one of the threads. When it fails, in whatever way, nobody goes on and the owner is told.
    pub(super) fn guard(&self, thread: impl FnOnce() -> Result<(), PageServerError>) {
        let result = catch_unwind(AssertUnwindSafe(thread)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(PageServerError::Panicked(text))
        });
        if let Err(error) = result {
            self.stopping.store(true, Ordering::Release);
            self.interrupt();
            let on_failure = lock(&self.on_failure).take();
            if let Some(on_failure) = on_failure {
                on_failure(error);
            }
        }
    }
}

/// Notices the end of the monitor. Without it the server only waits until it is stopped.
fn monitor(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    (pid != getpid()).then(|| pidfd_open(pid, PidfdFlags::empty()).ok()).flatten()
}

/// Nothing that these locks protect is half done when a thread panics: the server has failed then anyway.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
