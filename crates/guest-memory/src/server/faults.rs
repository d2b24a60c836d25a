//! The thread that answers faults.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use build::{PAGE_BYTES, Run};
use rustix::event::{PollFd, PollFlags, poll};

use super::PageServerError;
use super::shared::{Shared, lock};
use super::stats::add;
use crate::region::Region;
use crate::to_usize;
use crate::uffd::{EVENTS_AT_ONCE, Event, Filled};

/// A page of zeros.
static ZEROS: [u8; 4096] = [0; 4096];

/// How often an answer that has to wait for the monitor lets it run, before it sleeps in between.
const PATIENCE: u32 = 64;

/// How long it sleeps then.
const PAUSE: Duration = Duration::from_micros(100);

/// A thread of the monitor waits.
#[derive(Debug, Clone, Copy)]
struct Fault {
    address: u64,
    write: bool,
    protected: bool,
}

/// The monitor has ended: there is nobody to serve.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    Alive,
    Gone,
}

pub(super) fn run(shared: &Shared) {
    shared.guard(|| Server::new(shared).run());
}

struct Server<'a> {
    shared: &'a Shared,
    /// Faults to answer, at most one for each thread of the monitor.
    waiting: VecDeque<Fault>,
    events: Vec<Event>,
    buffer: Box<[u8]>,
}

impl<'a> Server<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            waiting: VecDeque::new(),
            events: Vec::with_capacity(EVENTS_AT_ONCE),
            buffer: vec![0; to_usize(shared.largest_page())].into(),
        }
    }

    fn run(&mut self) -> Result<(), PageServerError> {
        let shared = self.shared;
        // Waiting twice for the same thing changes nothing.
        let monitor = shared.monitor.as_ref().unwrap_or(&shared.wakeup);
        loop {
            let mut sources = [
                PollFd::new(&shared.uffd, PollFlags::IN),
                PollFd::new(&shared.wakeup, PollFlags::IN),
                PollFd::new(monitor, PollFlags::IN),
            ];
            match poll(&mut sources, None) {
                Err(rustix::io::Errno::INTR) => continue,
                result => system("waiting for faults", result.map_err(Into::into))?,
            };
            let faults = sources[0].revents();
            if shared.stopping.load(Ordering::Acquire) {
                return Ok(());
            }
            if faults.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
                return Err(PageServerError::System {
                    what: "waiting for faults",
                    source: io::Error::other("the userfaultfd is not ready for use"),
                });
            }
            if faults.contains(PollFlags::IN) {
                while self.news()? == EVENTS_AT_ONCE {}
                while let Some(fault) = self.waiting.pop_front() {
                    if self.answer(fault)? == Life::Gone {
                        return self.gone();
                    }
                }
            } else {
                // Only the monitor's end is left.
                return self.gone();
            }
        }
    }

    fn gone(&self) -> Result<(), PageServerError> {
        self.shared.stopping.store(true, Ordering::Release);
        Ok(())
    }

    /// Reads what happened. The number of events.
    fn news(&mut self) -> Result<usize, PageServerError> {
        let shared = self.shared;
        self.events.clear();
        shared.urgent.store(true, Ordering::Release);
        let gate = shared.gate.write().unwrap_or_else(PoisonError::into_inner);
        shared.urgent.store(false, Ordering::Release);
        let read = shared.uffd.read(&mut self.events);
        let mut unexpected = None;
        for event in self.events.drain(..) {
            match event {
                Event::Fault { address, write, protected } => {
                    self.waiting.push_back(Fault { address, write, protected });
                }
                Event::Removed(addresses) => {
                    add(&shared.counters.removals, 1);
                    shared.remove(&addresses);
                }
                Event::Unexpected(kind) => unexpected = Some(kind),
            }
        }
        drop(gate);
        let read = system("reading faults", read)?;
        unexpected.map_or(Ok(read), |kind| Err(PageServerError::UnknownEvent(kind)))
    }

    fn answer(&mut self, fault: Fault) -> Result<Life, PageServerError> {
        let shared = self.shared;
        let unknown = || PageServerError::UnknownAddress(fault.address);
        let region = *shared.region_at(fault.address).ok_or_else(unknown)?;
        let address = fault.address & !(region.page_size - 1);
        let first = region.page_at(address).ok_or_else(unknown)?;
        let pages = first..first + region.page_size / PAGE_BYTES;
        add(&shared.counters.faults, 1);
        if fault.protected {
            let alive = system("allowing a write", shared.uffd.unprotect(address, region.page_size))?;
            return Ok(if alive { Life::Alive } else { Life::Gone });
        }
        let mut tries = 0;
        loop {
            // Everything is looked at again after having waited: the page may have been given away.
            let zero = self.zero(&pages)?;
            match system("filling a page", self.fill(address, region, zero, !fault.write))? {
                Filled::Bytes(_) => {
                    self.filled(pages, zero);
                    return Ok(Life::Alive);
                }
                Filled::Present => {
                    add(&shared.counters.already_present, 1);
                    shared.installed.insert(pages);
                    system("waking a thread", shared.uffd.wake(address, region.page_size))?;
                    return Ok(Life::Alive);
                }
                Filled::Gone => return Ok(Life::Gone),
                Filled::Changing => {
                    add(&shared.counters.retries, 1);
                    if shared.stopping.load(Ordering::Acquire) {
                        return Ok(Life::Alive);
                    }
                    self.news()?;
                    // Read news let a thread of the monitor go on; nothing can be filled before it has.
                    if tries < PATIENCE {
                        thread::yield_now()
                    } else {
                        thread::sleep(PAUSE)
                    }
                    tries += 1;
                }
            }
        }
    }

    /// Finds out what the pages have: zeros, or what is in the buffer afterwards.
    fn zero(&mut self, pages: &Range<u64>) -> Result<bool, PageServerError> {
        let shared = self.shared;
        if shared.removed.contains(pages.start) || shared.installed.contains(pages.start) {
            return Ok(true);
        }
        let length = to_usize((pages.end - pages.start) * PAGE_BYTES);
        if length == ZEROS.len() && matches!(shared.source.run(pages.start), Run::Zero(_)) {
            return Ok(true);
        }
        Ok(!shared.load(pages.start, &mut self.buffer[..length])?)
    }

    fn fill(&mut self, address: u64, region: Region, zero: bool, protect: bool) -> io::Result<Filled> {
        let length = to_usize(region.page_size);
        if !zero {
            return self.shared.fill(address, &self.buffer[..length], protect);
        }
        if region.huge() {
            self.buffer[..length].fill(0);
            return self.shared.fill(address, &self.buffer[..length], protect);
        }
        // All zero pages of anonymous memory are one; in a memfd each takes its own place in either way, and only a
        // copied one can be told from a written one.
        if self.shared.memfd.is_none() {
            match self.shared.uffd.zero(address, region.page_size) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                result => return result,
            }
        }
        self.shared.fill(address, &ZEROS, protect)
    }

    fn filled(&self, pages: Range<u64>, zero: bool) {
        let shared = self.shared;
        let counters = &shared.counters;
        add(if zero { &counters.zero_pages } else { &counters.fault_pages }, pages.end - pages.start);
        // Once only: neither a page that was dropped and is missed again, nor one that was given away.
        let again = shared.installed.contains(pages.start) || shared.removed.contains(pages.start);
        shared.installed.insert(pages.clone());
        if let Some(set) = &shared.working_set
            && !again
        {
            lock(set).touch(pages);
        }
    }
}

impl Shared {
    /// Takes note that the monitor gives addresses away. Only by who holds the gate.
    fn remove(&self, addresses: &Range<u64>) {
        for region in &self.regions {
            let start = addresses.start.max(region.addr);
            let end = addresses.end.min(region.addr + region.size);
            if start < end {
                let page = |address: u64| region.first_page() + (address - region.addr) / PAGE_BYTES;
                self.removed.insert(page(start)..page(end));
            }
        }
    }
}

fn system<T>(what: &'static str, result: io::Result<T>) -> Result<T, PageServerError> {
    result.map_err(|source| PageServerError::System { what, source })
}
