//! The life of one sandbox, written down once.
//!
//! ```text
//!              guest daemon says that it listens,
//!              and has taken its identity
//!   Starting ───────────────────────────────────> Running
//!      │                                             │
//!      │ deadline, kill, VMM gone                    │ kill, end time, VMM gone
//!      └───────────────────> Ending <────────────────┘
//!                              │ VMM reaped, its control group removed, its disk deleted
//!                              v
//!                        Ended is sent, the process exits
//! ```
//!
//! | transition | cause | what the client sees |
//! |---|---|---|
//! | Starting -> Running | ready push and `/init` both came in time | the create call returns; the lifetime begins |
//! | Starting -> Ending | no VMM, one of the two deadlines, the VMM died, somebody killed it | the create call fails with the reason |
//! | Running -> Ending | kill, end time, the guest powered off, the VMM died | 404 and 502 from now on |
//!
//! One task, [`Lifecycle::run`], changes the state; everybody else sends it a [`Command`] or watches [`Status`].

use std::future::Future;
use std::time::Duration;

use control::{EndTime, Phase, Status};
use jiff::Timestamp;
use model::EndReason;
use tokio::sync::{mpsc, oneshot, watch};

/// The clock may be stepped while a sandbox runs: the end time is looked at this often at least.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// What the lifecycle can be asked or told.
#[derive(Debug)]
pub enum Command {
    /// The guest daemon listens, and this is its version.
    Ready(String),
    /// The guest daemon took, or refused, its identity.
    Initialised(Result<(), String>),
    /// The VMM runs, as this process.
    Launched(i32),
    /// The VMM could not be launched.
    LaunchFailed(String),
    /// The VMM process is gone.
    VmmGone(EndReason),
    /// Move the end time; answers with the status that then holds.
    SetEnd(EndTime, oneshot::Sender<Status>),
    /// End it.
    Kill,
}

/// The single writer of a sandbox's [`Status`].
#[derive(Debug)]
pub struct Lifecycle {
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    timing: Timing,
}

/// How long the parts of a life may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From now until the guest daemon says that it listens.
    pub ready: Duration,
    /// For handing the guest daemon its identity.
    pub init: Duration,
    /// From the moment that commands can be run until the sandbox ends by itself: a slow boot costs nobody's time.
    pub lifetime: jiff::SignedDuration,
}

impl Lifecycle {
    /// Starts in [`Phase::Starting`].
    pub fn new(commands: mpsc::Receiver<Command>, status: watch::Sender<Status>, timing: Timing) -> Self {
        Self { commands, status, timing }
    }

    /// Lives until something ends the sandbox and returns what it was. `initialise` is begun once, when the guest
    /// daemon listens, and reports with [`Command::Initialised`].
    pub async fn run<F>(mut self, initialise: impl FnOnce() -> F) -> EndReason
    where
        F: Future<Output = ()> + 'static,
    {
        let mut initialise = Some(initialise);
        let Timing { ready, init, lifetime } = self.timing;
        let mut deadline = Some((tokio::time::Instant::now() + ready, "the guest daemon to answer", ready));
        let why = loop {
            let (phase, end_at) = {
                let status = self.status.borrow();
                (status.phase, status.end_at)
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    None | Some(Command::Kill) => break EndReason::Killed,
                    Some(Command::Launched(pid)) => self.status.send_modify(|status| status.vmm_pid = Some(pid)),
                    Some(Command::LaunchFailed(error)) => break EndReason::StartFailed(error),
                    Some(Command::VmmGone(why)) => break self.unexpected(why),
                    Some(Command::SetEnd(end, reply)) => drop(reply.send(self.set_end(end))),
                    Some(Command::Ready(version)) => if let Some(initialise) = initialise.take() {
                        self.status.send_modify(|status| status.envd_version = version);
                        deadline = Some((tokio::time::Instant::now() + init, "the guest daemon to take its identity", init));
                        tokio::task::spawn_local(initialise());
                    },
                    Some(Command::Initialised(Ok(()))) => {
                        deadline = None;
                        self.status.send_modify(|status| {
                            status.phase = Phase::Running;
                            status.end_at = Timestamp::now().saturating_add(lifetime).unwrap_or(Timestamp::MAX);
                        });
                    }
                    Some(Command::Initialised(Err(error))) => break EndReason::StartFailed(error),
                },
                () = until(end_at), if phase == Phase::Running => break EndReason::TimedOut,
                () = sleep_until(deadline.map(|(at, ..)| at)) => if let Some((_, what, limit)) = deadline {
                    break EndReason::StartFailed(format!("waited {limit:?} for {what}"));
                },
            }
        };
        self.status.send_modify(|status| status.phase = Phase::Ending);
        why
    }

    /// A VMM that goes away before the sandbox ever ran is a failed start, whatever it said.
    fn unexpected(&self, why: EndReason) -> EndReason {
        match (self.status.borrow().phase, why) {
            (Phase::Starting, EndReason::VmmDied(how)) => {
                EndReason::StartFailed(format!("the VMM died: {how}"))
            }
            (Phase::Starting, _) => EndReason::StartFailed("the guest powered off while it started".into()),
            (_, why) => why,
        }
    }

    fn set_end(&self, end: EndTime) -> Status {
        self.status.send_modify(|status| {
            status.end_at = if end.only_extend { end.end_at.max(status.end_at) } else { end.end_at };
        });
        self.status.borrow().clone()
    }
}

/// Returns when the wall clock has reached `at`.
async fn until(at: Timestamp) {
    loop {
        let left = at.duration_since(Timestamp::now());
        let Ok(left) = Duration::try_from(left) else { return };
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LONGEST_NAP)).await;
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        commands: mpsc::Sender<Command>,
        status: watch::Receiver<Status>,
        life: Lifecycle,
    }

    fn rig(lifetime: Duration) -> Rig {
        let (commands, receiver) = mpsc::channel(8);
        let (status, watcher) = watch::channel(Status {
            id: model::SandboxId::random(),
            phase: Phase::Starting,
            end_at: Timestamp::now(),
            envd_version: String::new(),
            supervisor_pid: 1,
            vmm_pid: None,
            cgroup_forced_removals: 0,
        });
        let limit = Duration::from_millis(300);
        let lifetime = jiff::SignedDuration::try_from(lifetime).unwrap();
        let life = Lifecycle::new(receiver, status, Timing { ready: limit, init: limit, lifetime });
        Rig { commands, status: watcher, life }
    }

    fn local<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_runs_when_the_guest_is_ready_and_initialised() {
        local(async {
            let mut rig = rig(HOUR);
            let commands = rig.commands.clone();
            let life = tokio::task::spawn_local(
                rig.life.run(|| async move { commands.send(Command::Initialised(Ok(()))).await.unwrap() }),
            );
            rig.commands.send(Command::Ready("0.6.13".into())).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            rig.commands.send(Command::Kill).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::Killed);
            assert_eq!(rig.status.borrow().phase, Phase::Ending);
            assert_eq!(rig.status.borrow().envd_version, "0.6.13");
        });
    }

    #[test]
    fn a_silent_guest_and_a_stuck_initialisation_have_deadlines_of_their_own() {
        local(async {
            let silent = rig(HOUR);
            let why = silent.life.run(|| async {}).await;
            assert!(matches!(&why, EndReason::StartFailed(text) if text.contains("to answer")), "{why:?}");

            let stuck = rig(HOUR);
            stuck.commands.send(Command::Ready("1".into())).await.unwrap();
            let why = stuck.life.run(|| async {}).await;
            assert!(matches!(&why, EndReason::StartFailed(text) if text.contains("identity")), "{why:?}");
        });
    }

    #[test]
    fn it_ends_at_its_end_time_and_the_time_can_be_moved_both_ways() {
        local(async {
            let mut rig = rig(Duration::from_secs(1));
            let commands = rig.commands.clone();
            let life = tokio::task::spawn_local(rig.life.run(|| async {
                std::future::pending::<()>().await;
            }));
            commands.send(Command::Ready("1".into())).await.unwrap();
            commands.send(Command::Initialised(Ok(()))).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            let later = Timestamp::now() + jiff::SignedDuration::from_secs(60);
            let (reply, answer) = oneshot::channel();
            commands
                .send(Command::SetEnd(EndTime { end_at: later, only_extend: false }, reply))
                .await
                .unwrap();
            assert_eq!(answer.await.unwrap().end_at, later);
            let (reply, answer) = oneshot::channel();
            let now = Timestamp::now();
            commands.send(Command::SetEnd(EndTime { end_at: now, only_extend: true }, reply)).await.unwrap();
            assert_eq!(answer.await.unwrap().end_at, later, "only_extend never shortens");
            let (reply, _answer) = oneshot::channel();
            commands.send(Command::SetEnd(EndTime { end_at: now, only_extend: false }, reply)).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::TimedOut);
        });
    }

    #[test]
    fn a_vmm_that_dies_before_the_sandbox_ran_is_a_failed_start() {
        local(async {
            let rig = rig(HOUR);
            rig.commands.send(Command::VmmGone(EndReason::GuestExited)).await.unwrap();
            assert!(matches!(rig.life.run(|| async {}).await, EndReason::StartFailed(_)));
        });
    }

    #[test]
    fn a_second_ready_changes_nothing() {
        local(async {
            let mut rig = rig(HOUR);
            let commands = rig.commands.clone();
            let life = tokio::task::spawn_local(
                rig.life.run(|| async move { commands.send(Command::Initialised(Ok(()))).await.unwrap() }),
            );
            rig.commands.send(Command::Ready("1".into())).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            rig.commands.send(Command::Ready("2".into())).await.unwrap();
            rig.commands.send(Command::VmmGone(EndReason::GuestExited)).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::GuestExited);
            assert_eq!(rig.status.borrow().envd_version, "1");
        });
    }
}
