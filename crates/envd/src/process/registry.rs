//! The processes that run, and for a while those that have ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::exit::Exit;
use super::running::Process;
use super::selector::Selector;

/// How long an exit is kept for those who come late, for example a client that starts a command in the background and
/// connects to it afterwards.
const RETENTION: Duration = Duration::from_secs(30);
/// How many exits are kept at most; the oldest go first.
const MAX_RETAINED: usize = 1024;

/// The processes that run, and for a while those that have ended.
#[derive(Debug, Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    live: BTreeMap<u32, Arc<Process>>,
    /// The oldest first.
    retained: VecDeque<Retained>,
}

#[derive(Debug)]
struct Retained {
    until: Instant,
    pid: u32,
    tag: Option<String>,
    exit: Exit,
}

/// A process that was looked for.
#[derive(Debug)]
pub(super) enum Found {
    /// It runs.
    Live(Arc<Process>),
    /// It has ended.
    Ended { pid: u32, exit: Exit },
}

impl Registry {
    /// Adds a process that has just started. An exit that was kept under the same id or name is no longer what anybody
    /// means.
    pub(super) fn insert(&self, process: Arc<Process>) {
        let mut inner = self.lock();
        inner.retained.retain(|old| {
            old.pid != process.pid() && (old.tag.is_none() || old.tag.as_deref() != process.tag())
        });
        inner.live.insert(process.pid(), process);
    }

    /// Moves a process from those that run to those that have ended. To be called between its reaping, which frees its
    /// id, and anything that could start another one.
    pub(super) fn retire(&self, process: &Process, exit: Exit) {
        let mut inner = self.lock();
        inner.live.remove(&process.pid());
        inner.forget_old(Instant::now());
        if inner.retained.len() >= MAX_RETAINED {
            inner.retained.pop_front();
        }
        inner.retained.push_back(Retained {
            until: Instant::now() + RETENTION,
            pid: process.pid(),
            tag: process.tag().map(str::to_owned),
            exit,
        });
    }

    /// All that run, by id.
    pub(super) fn live(&self) -> Vec<Arc<Process>> {
        self.lock().live.values().map(Arc::clone).collect()
    }

    /// One that runs. Of several with the same name, the one with the highest id.
    pub(super) fn find_live(&self, selector: &Selector) -> Option<Arc<Process>> {
        self.lock().find_live(selector)
    }

    /// One that runs or has ended not long ago.
    pub(super) fn find(&self, selector: &Selector) -> Option<Found> {
        let mut inner = self.lock();
        inner.forget_old(Instant::now());
        if let Some(process) = inner.find_live(selector) {
            return Some(Found::Live(process));
        }
        let mut newest_first = inner.retained.iter().rev();
        let ended = newest_first.find(|ended| selector.matches(ended.pid, ended.tag.as_deref()))?;
        Some(Found::Ended { pid: ended.pid, exit: ended.exit })
    }

    /// Both lists are whole between any two statements, so those behind a poisoned lock are, too.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn find_live(&self, selector: &Selector) -> Option<Arc<Process>> {
        match selector {
            Selector::Pid(pid) => self.live.get(pid).map(Arc::clone),
            Selector::Tag(tag) => {
                self.live.values().rev().find(|process| process.tag() == Some(tag)).map(Arc::clone)
            }
        }
    }

    fn forget_old(&mut self, now: Instant) {
        while self.retained.front().is_some_and(|oldest| oldest.until <= now) {
            self.retained.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::super::input::Input;
    use super::super::running::Parts;
    use super::*;

    /// A process with this id and name, as far as the registry looks at it. The descriptor is that of another one.
    fn process(pid: u32, tag: Option<&str>) -> Arc<Process> {
        let parts = Parts {
            pid,
            tag: tag.map(str::to_owned),
            config: envd_proto::process::ProcessConfig::default(),
            pidfd: pidfd_open(getpid(), PidfdFlags::NONBLOCK).unwrap(),
            terminal: None,
            input: Input::pipe(None),
            hub: Arc::default(),
        };
        Arc::new(Process::new(parts).unwrap())
    }

    fn ended(registry: &Registry, selector: &Selector) -> Option<Exit> {
        match registry.find(selector) {
            Some(Found::Ended { exit, .. }) => Some(exit),
            _ => None,
        }
    }

    #[tokio::test]
    async fn an_id_or_a_name_that_is_used_again_means_the_new_one() {
        let registry = Registry::default();
        let tag = |tag: &str| Selector::Tag(tag.to_owned());
        let first = process(7, Some("a"));
        registry.insert(Arc::clone(&first));
        registry.retire(&first, Exit::Code(1));
        assert_eq!(ended(&registry, &Selector::Pid(7)), Some(Exit::Code(1)));
        assert_eq!(ended(&registry, &tag("a")), Some(Exit::Code(1)));
        // The kernel gives the number to another one, with another name.
        let second = process(7, Some("b"));
        registry.insert(Arc::clone(&second));
        assert!(matches!(registry.find(&Selector::Pid(7)), Some(Found::Live(_))));
        assert!(registry.find(&tag("a")).is_none());
        registry.retire(&second, Exit::Code(2));
        assert_eq!(ended(&registry, &Selector::Pid(7)), Some(Exit::Code(2)));
        // Without a name, only the number counts.
        for pid in [8, 9] {
            let unnamed = process(pid, None);
            registry.insert(Arc::clone(&unnamed));
            registry.retire(&unnamed, Exit::Code(3));
        }
        assert_eq!(ended(&registry, &Selector::Pid(8)), Some(Exit::Code(3)));
        assert_eq!(ended(&registry, &tag("b")), Some(Exit::Code(2)));
    }

    #[tokio::test]
    async fn only_so_many_exits_are_kept() {
        let registry = Registry::default();
        for pid in (1..).take(MAX_RETAINED + 1) {
            let process = process(pid, None);
            registry.insert(Arc::clone(&process));
            registry.retire(&process, Exit::Code(0));
        }
        assert!(registry.find(&Selector::Pid(1)).is_none() && registry.find(&Selector::Pid(2)).is_some());
        assert_eq!(registry.lock().retained.len(), MAX_RETAINED);
    }
}
