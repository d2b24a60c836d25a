//! Listening to one supervisor, and not waiting for ever for one that does not do its part.
//!
//! Three things tell that a sandbox is over, whichever comes first:
//! - its supervisor says so, or is gone;
//! - somebody wants it ended without the supervisor's help ([`Entry::force`]);
//! - it is late: the supervisor keeps the deadlines of its sandbox, so a phase that lasts well beyond its own means that
//!   the supervisor hangs.
//!
//! A stream of events that breaks says nothing as long as the process lives: this server may have been the one that
//! was short of descriptors. It connects again.

use std::time::Duration;

use control::{Event, Phase};
use jiff::{SignedDuration, Timestamp};
use model::EndReason;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::entry::{Entry, View};
use crate::metrics::NodeMetrics;
use crate::node::Shared;
use crate::process::SupervisorProcess;
use crate::release::Leave;

/// How late a supervisor may be in what it does by itself: under load everything takes longer.
const GRACE: Duration = Duration::from_secs(15);
/// Between two attempts to connect: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The clock may be stepped while a sandbox runs: its end time is looked at this often at least.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// The most that a pause may take: each of its steps has a deadline of its own, and all of them together are less.
const LONGEST_PAUSING: Duration = Duration::from_secs(3600);

/// How a sandbox ended, and whether its supervisor can be relied on to leave.
pub(crate) struct Ending {
    pub(crate) why: EndReason,
    pub(crate) leave: Leave,
}

/// One sandbox being followed.
pub(crate) struct Following<'a> {
    entry: &'a Entry,
    view: &'a watch::Sender<View>,
    metrics: &'a NodeMetrics,
    /// When a start that is not over by itself has failed.
    start_by: Instant,
    /// Whether it ever ran.
    pub(crate) had_run: bool,
}

impl<'a> Following<'a> {
    pub(crate) fn new(entry: &'a Entry, view: &'a watch::Sender<View>, shared: &'a Shared) -> Self {
        let had_run = view.borrow().phase == Phase::Running;
        if had_run {
            shared.metrics.adopted();
        }
        let start_by = Instant::now() + shared.config.ready + shared.config.init + GRACE;
        Self { entry, view, metrics: &shared.metrics, start_by, had_run }
    }

    /// Returns when the sandbox is over.
    pub(crate) async fn until_over(&mut self, process: Option<&SupervisorProcess>) -> Ending {
        let (entry, start_by) = (self.entry, self.start_by);
        let late = late(entry.view.clone(), start_by);
        tokio::select! {
            biased;
            why = self.listen(process) => Ending { why, leave: Leave::Willing },
            () = entry.force.cancelled() => Ending { why: EndReason::Killed, leave: Leave::Forced },
            why = late => {
                tracing::error!(sandbox = %entry.spec.id, ?why, "the supervisor hangs: ending the sandbox by force");
                Ending { why, leave: Leave::Forced }
            }
        }
    }

    /// Listens until the supervisor says how the sandbox ended, or is gone.
    async fn listen(&mut self, process: Option<&SupervisorProcess>) -> EndReason {
        let id = &self.entry.spec.id;
        let mut pause = FIRST_PAUSE;
        loop {
            let before = Instant::now();
            let error = match self.events().await {
                Ok(why) => return why,
                Err(error) => error,
            };
            let gone = async {
                match process {
                    Some(process) => process.exited().await,
                    None => Ok(()),
                }
            };
            if tokio::time::timeout(pause, gone).await.is_ok() {
                tracing::warn!(sandbox = %id, error, "the supervisor ended without a word");
                return EndReason::SupervisorDied;
            }
            tracing::warn!(sandbox = %id, error, "the supervisor lives and is not heard: connecting again");
            let lasted = before.elapsed() > LONGEST_PAUSE * 2;
            pause = if lasted { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        }
    }

    /// One connection.
    async fn events(&mut self) -> Result<EndReason, String> {
        let mut events = self.entry.client.events().await.map_err(|error| error.to_string())?;
        loop {
            match events.next().await.map_err(|error| error.to_string())? {
                Some(Event::Status(status)) => {
                    if status.phase == Phase::Running && !std::mem::replace(&mut self.had_run, true) {
                        self.metrics.started();
                    }
                    self.view.send_modify(|view| {
                        view.phase = status.phase;
                        view.pausing = match status.phase {
                            Phase::Pausing => true,
                            // Committed, or killed: what came of it is told next.
                            Phase::Ending => view.pausing,
                            Phase::Starting | Phase::Running => false,
                        };
                        view.end_at = status.end_at;
                        view.envd_version = status.envd_version;
                    });
                }
                Some(Event::Ended { why, forced }) => {
                    if forced {
                        self.metrics.cgroup_forced();
                    }
                    return Ok(why);
                }
                None => return Err("its event stream closed".into()),
            }
        }
    }
}

/// Returns when a phase has lasted so long that only a hung supervisor explains it, with what became of the sandbox.
async fn late(mut view: watch::Receiver<View>, start_by: Instant) -> EndReason {
    let (mut ending_by, mut pausing_by) = (None, None);
    loop {
        let (phase, end_at) = {
            let view = view.borrow_and_update();
            (view.phase, view.end_at)
        };
        if phase != Phase::Pausing {
            pausing_by = None;
        }
        let now = Instant::now();
        let (left, why) = match phase {
            Phase::Starting => {
                let why = EndReason::StartFailed("its supervisor hangs and was ended".into());
                (start_by.saturating_duration_since(now), why)
            }
            Phase::Running => (until(end_at), EndReason::TimedOut),
            Phase::Pausing => {
                let pausing_by = *pausing_by.get_or_insert(now + LONGEST_PAUSING);
                let why = EndReason::VmmDied("its supervisor hung while it was paused".into());
                (pausing_by.saturating_duration_since(now), why)
            }
            Phase::Ending => {
                let ending_by = *ending_by.get_or_insert(now + GRACE);
                (ending_by.saturating_duration_since(now), EndReason::Killed)
            }
        };
        if left.is_zero() {
            return why;
        }
        tokio::select! {
            () = tokio::time::sleep(left.min(LONGEST_NAP)) => {}
            changed = view.changed() => if changed.is_err() {
                // Nobody changes it any more: whoever did has said how it ended.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// From now until the supervisor is too late to end its sandbox at `end_at`.
fn until(end_at: Timestamp) -> Duration {
    let left = end_at.duration_since(Timestamp::now());
    let left = left.saturating_add(SignedDuration::try_from(GRACE).unwrap_or(SignedDuration::MAX));
    Duration::try_from(left).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(200);

    fn view(phase: Phase, end_at: Timestamp) -> (watch::Sender<View>, watch::Receiver<View>) {
        watch::channel(View { phase, end_at, envd_version: String::new(), pausing: false, ended: None })
    }

    fn seconds_from_now(seconds: i64) -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(seconds)
    }

    #[tokio::test]
    async fn a_start_is_late_after_its_deadline_and_a_sandbox_after_its_end_time() {
        let now = Instant::now();
        let (_sender, starting) = view(Phase::Starting, seconds_from_now(600));
        assert!(matches!(late(starting, now + SOON).await, EndReason::StartFailed(_)));

        let long_ago = seconds_from_now(-60);
        let (_sender, running) = view(Phase::Running, long_ago);
        assert_eq!(late(running, now).await, EndReason::TimedOut);

        for (phase, end_at) in [
            (Phase::Starting, long_ago),
            (Phase::Running, seconds_from_now(600)),
            (Phase::Running, seconds_from_now(-1)),
            (Phase::Ending, long_ago),
        ] {
            let (_sender, patient) = view(phase, end_at);
            let limit = if phase == Phase::Starting { now + Duration::from_secs(600) } else { now };
            let waited = tokio::time::timeout(SOON, late(patient, limit)).await;
            assert!(waited.is_err(), "{phase:?} {end_at}: {waited:?}");
        }
    }

    #[tokio::test]
    async fn a_moved_end_time_is_seen_while_waiting() {
        let (sender, running) = view(Phase::Running, seconds_from_now(600));
        let mut late = std::pin::pin!(late(running, Instant::now()));
        assert!(tokio::time::timeout(SOON, &mut late).await.is_err());
        sender.send_modify(|view| view.end_at = seconds_from_now(-60));
        assert_eq!(tokio::time::timeout(SOON, late).await.unwrap(), EndReason::TimedOut);
    }
}
