//! The processes of the sandbox's user, which stand still or run.
//!
//! ```text
//!            freeze                              thaw: /unfreeze, /init, after 10 minutes
//!   running ────────> frozen (asked; then seen) ──────────────────────────────────────────> running
//!                       │ freeze: begins anew
//! ```

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use crate::cgroups::Group;

/// The host freezes and then stops the machine, in which time stands still then. Whoever was not thawed for so long was
/// forgotten.
pub(super) const LONGEST: Duration = Duration::from_secs(600);
/// How long a freeze waits for another one.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
/// How often the kernel is asked whether all have stopped.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What can be made to stand still.
trait Freezable: Debug + Send + Sync {
    fn set_frozen(&self, frozen: bool) -> io::Result<()>;
    fn is_frozen(&self) -> io::Result<bool>;
}

impl Freezable for Arc<Group> {
    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        Group::set_frozen(self, frozen)
    }

    fn is_frozen(&self) -> io::Result<bool> {
        Group::is_frozen(self)
    }
}

/// A group, as far as this module needs to know it.
#[derive(Debug)]
pub(crate) struct Part(Box<dyn Freezable>);

impl From<Arc<Group>> for Part {
    fn from(group: Arc<Group>) -> Self {
        Self(Box::new(group))
    }
}

/// Somebody else is freezing.
#[derive(Debug, Error)]
#[error("another freeze is under way: try again when it has ended, or thaw first")]
pub(super) struct Busy;

/// Not all could be thawed.
#[derive(Debug, Error)]
#[error("cannot thaw: {}", .0.join("; "))]
pub(crate) struct ThawError(Vec<String>);

/// What was seen of a freeze. The names are those of E2B's daemon, whose other mode some of them are about.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    mode: &'static str,
    visited: u32,
    allowlisted: u32,
    truncated: bool,
    pre_frozen: u32,
    /// Groups that were asked to stop.
    requested: u32,
    /// Groups that stand still.
    frozen: u32,
    /// Groups that did not within the time.
    not_frozen: u32,
    /// Groups that could not be asked, or do not tell.
    failed: u32,
    /// Groups that this machine does not have.
    unobservable: u32,
    sweep_ms: u64,
    wait_ms: u64,
}

/// All groups.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Without a group where the kernel has none.
    parts: Vec<(&'static str, Option<Part>)>,
    /// Held by the one freeze that may be under way. A thaw does not care.
    freezing: tokio::sync::Mutex<()>,
    /// Held while the groups are told one after the other, so that they all hear the same last.
    telling: Mutex<()>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct State {
    frozen: bool,
    /// Counts freezes and thaws.
    changes: u64,
}

impl Workload {
    pub(crate) fn new(parts: Vec<(&'static str, Option<Part>)>) -> Self {
        Self {
            parts,
            freezing: tokio::sync::Mutex::default(),
            telling: Mutex::default(),
            state: watch::Sender::default(),
        }
    }

    /// Stops all, and waits until they stand still, for `wait` at most. `forgotten` is called when they had to be thawed
    /// because nobody else did.
    pub(super) async fn freeze(
        self: Arc<Self>,
        wait: Option<Duration>,
        forgotten: impl FnOnce() + Send + 'static,
    ) -> Result<Report, Busy> {
        let _only = tokio::time::timeout(LOCK_PATIENCE, self.freezing.lock()).await.map_err(|_| Busy)?;
        let begin = Instant::now();
        let (mut report, asked, changes) = self.ask();
        report.sweep_ms = milliseconds(begin);
        tokio::spawn(Arc::clone(&self).watch(changes, forgotten));
        let begin = Instant::now();
        self.observe(&mut report, asked, begin + wait.unwrap_or_default(), changes).await;
        report.wait_ms = milliseconds(begin);
        Ok(report)
    }

    /// Tells all groups to stop. Returns which ones were told.
    fn ask(&self) -> (Report, Vec<&Part>, u64) {
        let _order = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = Report { mode: "legacy", ..Report::default() };
        let mut asked = Vec::new();
        for (_name, part) in &self.parts {
            match part {
                None => {
                    (report.requested, report.unobservable) = (report.requested + 1, report.unobservable + 1)
                }
                Some(part) if part.0.set_frozen(true).is_ok() => {
                    report.requested += 1;
                    asked.push(part);
                }
                Some(_) => report.failed += 1,
            }
        }
        (report, asked, self.change(true))
    }

    /// Looks at the groups until all stand still, the time is over or somebody thaws.
    async fn observe(&self, report: &mut Report, mut asked: Vec<&Part>, deadline: Instant, changes: u64) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            asked.retain(|part| match part.0.is_frozen() {
                Ok(true) => {
                    report.frozen += 1;
                    false
                }
                Ok(false) => true,
                Err(_) => {
                    report.failed += 1;
                    false
                }
            });
            if asked.is_empty() || Instant::now() >= deadline || self.state.borrow().changes != changes {
                break;
            }
            ticks.tick().await;
        }
        report.not_frozen = u32::try_from(asked.len()).unwrap_or(u32::MAX);
    }

    /// Lets all go on. Each of them, even when another one cannot. At once: it waits for nobody.
    ///
    /// # Errors
    /// Which ones do not.
    pub(crate) fn thaw(&self) -> Result<(), ThawError> {
        let _order = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = Vec::new();
        for (name, part) in &self.parts {
            if let Some(Err(error)) = part.as_ref().map(|part| part.0.set_frozen(false)) {
                failures.push(format!("the processes of group {name}: {error}"));
            }
        }
        self.change(!failures.is_empty() && self.is_frozen());
        if failures.is_empty() { Ok(()) } else { Err(ThawError(failures)) }
    }

    /// Whether they were frozen and not thawed since, as far as this daemon knows.
    pub(crate) fn is_frozen(&self) -> bool {
        self.state.borrow().frozen
    }

    /// Waits until they are not frozen.
    pub(crate) async fn running(&self) {
        // The sender is ours.
        let _ = self.state.subscribe().wait_for(|state| !state.frozen).await;
    }

    /// Thaws when nobody else has after a long time. That is time in which this machine ran.
    async fn watch(self: Arc<Self>, changes: u64, forgotten: impl FnOnce()) {
        let mut state = self.state.subscribe();
        let thawed = state.wait_for(|state| state.changes != changes);
        if tokio::time::timeout(LONGEST, thawed).await.is_err() {
            // There is nobody to tell but the log, which `forgotten` does.
            let _ = self.thaw();
            forgotten();
        }
    }

    fn change(&self, frozen: bool) -> u64 {
        self.state.send_modify(|state| *state = State { frozen, changes: state.changes + 1 });
        self.state.borrow().changes
    }
}

fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
