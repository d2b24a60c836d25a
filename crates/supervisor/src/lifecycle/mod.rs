//! The life of one sandbox, written down once.
//!
//! ```text
//!              guest daemon says that it listens,             somebody asks,
//!              and has taken its identity                     or the end time
//!   Starting ───────────────────────────────────> Running ──────────────────────> Pausing
//!      │                                           │   ^                             │  │
//!      │                                           │   └── woken, or it failed ──────┘  │
//!      │ deadline, kill, VMM gone                  │ kill, end time, VMM gone           │ kill; written
//!      └──────────────────────> Ending <───────────┴────────────────────────────────────┘
//!                                 │ VMM reaped, its control group removed, its disk deleted
//!                                 v
//!                           Ended is sent, the process exits
//! ```
//!
//! | transition | cause | what the client sees |
//! |---|---|---|
//! | Starting -> Running | ready push (of a machine that was resumed: its vCPUs run) and `/init` both came in time | the create or resume returns; the lifetime begins |
//! | Starting -> Ending | no VMM, one of the two deadlines, the VMM died, somebody killed it | the call fails with the reason |
//! | Running -> Pausing | somebody asks, or the end time of a sandbox that is paused then | paused |
//! | Pausing -> Running | somebody wants to use it before the pause is committed; or a step failed | the pause is answered with 409 or 500, the sandbox is the one it was |
//! | Pausing -> Ending | committed: build and record are on stable storage | the pause is answered; paused |
//! | Running, Pausing -> Ending | kill, end time, the guest powered off, the VMM died | 404 and 502 from now on, or the snapshot from which it was resumed |
//!
//! A machine that becomes a template goes from Starting to Pausing as soon as its guest daemon listens: nobody uses it.
//!
//! [`rules`] has the transitions, without time and tasks. One task, [`Lifecycle::run`], applies them; everybody else sends
//! it a [`Command`] or watches [`Status`].

pub mod rules;

use std::future::Future;
use std::time::Duration;

use control::{Checkpoint, EndTime, Keep, Phase, Status};
use jiff::Timestamp;
use model::EndReason;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::rules::{Effect, Input, PauseOutcome, Refusal, State, Terms};

/// The clock may be stepped while a sandbox runs: the end time is looked at this often at least.
const LONGEST_NAP: Duration = Duration::from_secs(10);
/// A sandbox that could not be paused at its end time lives on, and this long later it is tried again.
const POSTPONE: jiff::SignedDuration = jiff::SignedDuration::from_secs(30);

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
    /// Pause it and keep this of it; answers when that is durable, or why it did not come about.
    Pause(Keep, Answer),
    /// The pause that was begun is over.
    PauseOver(PauseOutcome),
    /// Make this build of what it is now, and let it run on; answers when that is durable. No state of its own: a sandbox
    /// of which a snapshot is made runs, whatever else happens to it happens as ever, and a pause waits its turn.
    Snapshot(Checkpoint, Answer),
    /// End it.
    Kill,
}

/// Who waits for a pause or a snapshot.
pub type Answer = oneshot::Sender<Result<(), Refusal>>;

/// What the lifecycle has done for it. Each is begun as a task and reports with a [`Command`].
pub trait Work {
    /// Gives the guest daemon its identity; reports [`Command::Initialised`].
    fn initialise(&mut self) -> impl Future<Output = ()> + 'static;

    /// Writes the sandbox to a build unless `cancel` comes in time; reports [`Command::PauseOver`]. Keeps what somebody
    /// asked for; `None` when nobody did, and its end time has come.
    fn pause(&mut self, keep: Option<Keep>, cancel: CancellationToken) -> impl Future<Output = ()> + 'static;

    /// Makes a build of the sandbox, which runs on, unless it ends first; says so to who waits for it.
    fn snapshot(&mut self, wanted: Checkpoint, answer: Answer) -> impl Future<Output = ()> + 'static;
}

/// The single writer of a sandbox's [`Status`].
#[derive(Debug)]
pub struct Lifecycle {
    commands: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    timing: Timing,
    terms: Terms,
    state: State,
    deadline: Option<Deadline>,
    /// What the pause that is about to begin was asked to keep.
    keep: Option<Keep>,
    /// Who waits for the pause that is under way, and how it is told to give up.
    waiting: Option<Answer>,
    cancel: CancellationToken,
}

/// How long the parts of a life may take.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// From now until the guest daemon says that it listens; `None` where it may take for ever.
    pub ready: Option<Duration>,
    /// For handing the guest daemon its identity; `None` as before.
    pub init: Option<Duration>,
    /// From the moment that commands can be run until the sandbox ends by itself: a slow boot costs nobody's time.
    pub lifetime: jiff::SignedDuration,
}

/// A step of the start that must not take for ever.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: tokio::time::Instant,
    what: &'static str,
    limit: Duration,
}

impl Deadline {
    fn new(what: &'static str, limit: Duration) -> Self {
        Self { at: tokio::time::Instant::now() + limit, what, limit }
    }
}

impl Lifecycle {
    /// Starts in [`Phase::Starting`].
    pub fn new(
        commands: mpsc::Receiver<Command>,
        status: watch::Sender<Status>,
        timing: Timing,
        terms: Terms,
    ) -> Self {
        let deadline = timing.ready.map(|limit| Deadline::new("the guest daemon to answer", limit));
        let (waiting, cancel) = (None, CancellationToken::new());
        Self { commands, status, timing, terms, state: State::first(), deadline, keep: None, waiting, cancel }
    }

    /// Lives until something ends the sandbox and returns what it was.
    pub async fn run(mut self, mut work: impl Work) -> EndReason {
        let why = loop {
            if let State::Over(why) = self.state {
                break why;
            }
            let end_at = self.status.borrow().end_at;
            let deadline = self.deadline;
            let input = tokio::select! {
                biased;
                command = self.commands.recv() => match self.input(command, &mut work) {
                    Some(input) => input,
                    None => continue,
                },
                () = until(end_at), if self.state == State::Running => Input::EndTime,
                () = sleep_until(deadline) => match deadline {
                    Some(Deadline { what, limit, .. }) => Input::Late(format!("waited {limit:?} for {what}")),
                    None => continue,
                },
            };
            self.apply(input, &mut work);
        };
        self.status.send_modify(|status| status.phase = Phase::Ending);
        why
    }

    /// What a command means to the rules. Some concern only the status.
    fn input(&mut self, command: Option<Command>, work: &mut impl Work) -> Option<Input> {
        Some(match command {
            None | Some(Command::Kill) => Input::Kill,
            Some(Command::Launched(pid)) => {
                self.status.send_modify(|status| status.vmm_pid = Some(pid));
                return None;
            }
            Some(Command::LaunchFailed(error)) => Input::LaunchFailed(error),
            Some(Command::VmmGone(why)) => Input::VmmGone(why),
            Some(Command::SetEnd(end, reply)) => {
                // Whoever is gone does not need the answer.
                let _ = reply.send(self.set_end(end));
                return end.wake.then_some(Input::Wake);
            }
            Some(Command::Ready(version)) => {
                if matches!(self.state, State::Starting { ready: false }) {
                    self.status.send_modify(|status| status.envd_version = version);
                }
                Input::Ready
            }
            Some(Command::Initialised(outcome)) => Input::Initialised(outcome),
            Some(Command::PauseOver(outcome)) => Input::PauseOver(outcome),
            Some(Command::Snapshot(wanted, answer)) => {
                if self.state == State::Running {
                    tokio::task::spawn_local(work.snapshot(wanted, answer));
                } else {
                    let _ = answer.send(Err(Refusal::State("the sandbox does not run")));
                }
                return None;
            }
            Some(Command::Pause(keep, reply)) => {
                let (next, effects) = self.state.clone().on(Input::Pause, self.terms);
                // The rules refuse it or begin it; only who began one waits for it.
                match effects.as_slice() {
                    [Effect::Refuse(refusal)] => {
                        let _ = reply.send(Err(refusal.clone()));
                        self.state = next;
                        return None;
                    }
                    _ => (self.keep, self.waiting) = (Some(keep), Some(reply)),
                }
                Input::Pause
            }
        })
    }

    fn apply(&mut self, input: Input, work: &mut impl Work) {
        let (state, effects) = std::mem::replace(&mut self.state, State::first()).on(input, self.terms);
        self.state = state;
        if !matches!(self.state, State::Starting { .. }) {
            self.deadline = None;
        }
        for effect in effects {
            self.perform(effect, work);
        }
        let phase = match self.state {
            State::Starting { .. } => Phase::Starting,
            State::Running => Phase::Running,
            State::Pausing { .. } => Phase::Pausing,
            State::Over(_) => Phase::Ending,
        };
        self.status.send_if_modified(|status| std::mem::replace(&mut status.phase, phase) != phase);
    }

    fn perform(&mut self, effect: Effect, work: &mut impl Work) {
        match effect {
            Effect::Initialise => {
                let limit = self.timing.init;
                self.deadline =
                    limit.map(|limit| Deadline::new("the guest daemon to take its identity", limit));
                tokio::task::spawn_local(work.initialise());
            }
            // With the phase, so that nobody sees the one without the other.
            Effect::BeginLifetime => self.status.send_modify(|status| {
                status.phase = Phase::Running;
                status.end_at =
                    Timestamp::now().saturating_add(self.timing.lifetime).unwrap_or(Timestamp::MAX);
            }),
            Effect::BeginPause => {
                self.cancel = CancellationToken::new();
                tokio::task::spawn_local(work.pause(self.keep.take(), self.cancel.clone()));
            }
            Effect::CancelPause => self.cancel.cancel(),
            Effect::Answer(outcome) => {
                if let Err(Refusal::Failed(error)) = &outcome {
                    tracing::error!(error, "the pause failed");
                }
                if let Some(waiting) = self.waiting.take() {
                    let _ = waiting.send(outcome);
                }
            }
            // Answered where it came in.
            Effect::Refuse(_) => {}
            Effect::Postpone => self.status.send_modify(|status| {
                let later = Timestamp::now().saturating_add(POSTPONE).unwrap_or(Timestamp::MAX);
                status.end_at = status.end_at.max(later);
            }),
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

async fn sleep_until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use model::{BuildId, OnTimeout};

    use super::*;

    /// Says at once that what was begun is done, or nothing at all.
    struct Fake {
        commands: mpsc::Sender<Command>,
        initialised: Option<Result<(), String>>,
        paused: Option<PauseOutcome>,
        /// What each pause was to keep.
        kept: Arc<Mutex<Vec<Option<Keep>>>>,
    }

    impl Work for Fake {
        fn initialise(&mut self) -> impl Future<Output = ()> + 'static {
            let (commands, outcome) = (self.commands.clone(), self.initialised.clone());
            async move {
                if let Some(outcome) = outcome {
                    commands.send(Command::Initialised(outcome)).await.unwrap();
                }
            }
        }

        fn pause(
            &mut self,
            keep: Option<Keep>,
            cancel: CancellationToken,
        ) -> impl Future<Output = ()> + 'static {
            self.kept.lock().unwrap().push(keep);
            let (commands, outcome) = (self.commands.clone(), self.paused.clone());
            async move {
                let outcome = match outcome {
                    Some(outcome) => outcome,
                    None => {
                        cancel.cancelled().await;
                        PauseOutcome::Cancelled
                    }
                };
                let _ = commands.send(Command::PauseOver(outcome)).await;
            }
        }

        fn snapshot(&mut self, _: Checkpoint, answer: Answer) -> impl Future<Output = ()> + 'static {
            let _ = answer.send(Ok(()));
            std::future::ready(())
        }
    }

    struct Rig {
        commands: mpsc::Sender<Command>,
        status: watch::Receiver<Status>,
        life: Lifecycle,
        work: Fake,
    }

    fn rig(lifetime: Duration, on_timeout: OnTimeout) -> Rig {
        rig_within(Some(LIMIT), lifetime, on_timeout)
    }

    fn rig_within(limit: Option<Duration>, lifetime: Duration, on_timeout: OnTimeout) -> Rig {
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
        let lifetime = jiff::SignedDuration::try_from(lifetime).unwrap();
        let timing = Timing { ready: limit, init: limit, lifetime };
        let life = Lifecycle::new(receiver, status, timing, Terms { on_timeout, template: false });
        let kept = Arc::default();
        let work = Fake { commands: commands.clone(), initialised: Some(Ok(())), paused: None, kept };
        Rig { commands, status: watcher, life, work }
    }

    fn local<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, future)
    }

    /// For each step of a start.
    const LIMIT: Duration = Duration::from_millis(300);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_runs_when_the_guest_is_ready_and_initialised() {
        local(async {
            let mut rig = rig(HOUR, OnTimeout::Kill);
            let life = tokio::task::spawn_local(rig.life.run(rig.work));
            rig.commands.send(Command::Ready("0.6.13".into())).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            rig.commands.send(Command::Ready("2".into())).await.unwrap();
            rig.commands.send(Command::Kill).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::Killed);
            assert_eq!(rig.status.borrow().phase, Phase::Ending);
            assert_eq!(rig.status.borrow().envd_version, "0.6.13", "a second ready changes nothing");
        });
    }

    #[test]
    fn a_silent_guest_and_a_stuck_initialisation_have_deadlines_of_their_own() {
        local(async {
            let silent = rig(HOUR, OnTimeout::Kill);
            let why = silent.life.run(silent.work).await;
            assert!(matches!(&why, EndReason::StartFailed(text) if text.contains("to answer")), "{why:?}");

            let mut stuck = rig(HOUR, OnTimeout::Kill);
            stuck.work.initialised = None;
            stuck.commands.send(Command::Ready("1".into())).await.unwrap();
            let why = stuck.life.run(stuck.work).await;
            assert!(matches!(&why, EndReason::StartFailed(text) if text.contains("identity")), "{why:?}");
        });
    }

    #[test]
    fn a_start_without_deadlines_is_waited_for() {
        local(async {
            let mut rig = rig_within(None, HOUR, OnTimeout::Kill);
            rig.work.initialised = None;
            let life = tokio::task::spawn_local(rig.life.run(rig.work));
            tokio::time::sleep(LIMIT * 2).await;
            assert_eq!(rig.status.borrow().phase, Phase::Starting);
            rig.commands.send(Command::Ready("1".into())).await.unwrap();
            tokio::time::sleep(LIMIT * 2).await;
            assert_eq!(rig.status.borrow().phase, Phase::Starting);
            rig.commands.send(Command::Initialised(Ok(()))).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            rig.commands.send(Command::Kill).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::Killed);
        });
    }

    #[test]
    fn it_ends_at_its_end_time_and_the_time_can_be_moved_both_ways() {
        local(async {
            let mut rig = rig(Duration::from_secs(1), OnTimeout::Kill);
            let commands = rig.commands.clone();
            let life = tokio::task::spawn_local(rig.life.run(rig.work));
            commands.send(Command::Ready("1".into())).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            let move_to = async |end_at, only_extend| {
                let (reply, answer) = oneshot::channel();
                let end = EndTime { end_at, only_extend, wake: false };
                commands.send(Command::SetEnd(end, reply)).await.unwrap();
                answer.await.unwrap().end_at
            };
            let later = Timestamp::now() + jiff::SignedDuration::from_secs(60);
            assert_eq!(move_to(later, false).await, later);
            let now = Timestamp::now();
            assert_eq!(move_to(now, true).await, later, "only_extend never shortens");
            move_to(now, false).await;
            assert_eq!(life.await.unwrap(), EndReason::TimedOut);
        });
    }

    #[test]
    fn its_end_time_pauses_it_when_it_is_that_kind() {
        local(async {
            let mut rig = rig(Duration::from_millis(50), OnTimeout::Pause);
            let build = BuildId::random();
            rig.work.paused = Some(PauseOutcome::Committed(build.clone()));
            let kept = Arc::clone(&rig.work.kept);
            rig.commands.send(Command::Ready("1".into())).await.unwrap();
            assert_eq!(rig.life.run(rig.work).await, EndReason::Paused(build));
            assert_eq!(*kept.lock().unwrap(), [None], "nobody asked for anything");
        });
    }

    #[test]
    fn a_pause_that_fails_at_the_end_time_is_tried_again_later() {
        local(async {
            let mut rig = rig(Duration::from_millis(50), OnTimeout::Pause);
            rig.work.paused = Some(PauseOutcome::Failed("the disk is full".into()));
            let life = tokio::task::spawn_local(rig.life.run(rig.work));
            rig.commands.send(Command::Ready("1".into())).await.unwrap();
            let postponed = |status: &Status| {
                let left = status.end_at.duration_since(Timestamp::now());
                status.phase == Phase::Running && left > jiff::SignedDuration::from_secs(20)
            };
            rig.status.wait_for(postponed).await.unwrap();
            rig.commands.send(Command::Kill).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::Killed);
        });
    }

    #[test]
    fn a_snapshot_is_made_of_one_that_runs_and_changes_nothing() {
        local(async {
            let mut rig = rig(HOUR, OnTimeout::Kill);
            let commands = rig.commands.clone();
            let life = tokio::task::spawn_local(rig.life.run(rig.work));
            let snapshot = async || {
                let (answer, made) = oneshot::channel();
                let wanted = Checkpoint { build: BuildId::random(), keep: Keep::Everything };
                commands.send(Command::Snapshot(wanted, answer)).await.unwrap();
                made.await.unwrap()
            };
            assert!(matches!(snapshot().await, Err(Refusal::State(_))), "it is still starting");
            commands.send(Command::Ready("1".into())).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            assert_eq!(snapshot().await, Ok(()));
            assert_eq!(rig.status.borrow().phase, Phase::Running);
            let (reply, _paused) = oneshot::channel();
            commands.send(Command::Pause(Keep::Everything, reply)).await.unwrap();
            assert!(matches!(snapshot().await, Err(Refusal::State(_))), "it is being paused");
            commands.send(Command::Kill).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::Killed);
        });
    }

    #[test]
    fn whoever_uses_it_takes_a_pause_back() {
        local(async {
            let mut rig = rig(HOUR, OnTimeout::Kill);
            let (commands, kept) = (rig.commands.clone(), Arc::clone(&rig.work.kept));
            let life = tokio::task::spawn_local(rig.life.run(rig.work));
            commands.send(Command::Ready("1".into())).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            let (reply, paused) = oneshot::channel();
            commands.send(Command::Pause(Keep::Disk, reply)).await.unwrap();
            rig.status.wait_for(|status| status.phase == Phase::Pausing).await.unwrap();
            let (reply, again) = oneshot::channel();
            commands.send(Command::Pause(Keep::Everything, reply)).await.unwrap();
            assert!(matches!(again.await.unwrap(), Err(Refusal::State(_))), "one pause at a time");
            let end = EndTime { end_at: Timestamp::now(), only_extend: true, wake: true };
            commands.send(Command::SetEnd(end, oneshot::channel().0)).await.unwrap();
            assert!(matches!(paused.await.unwrap(), Err(Refusal::State(_))));
            assert_eq!(*kept.lock().unwrap(), [Some(Keep::Disk)]);
            rig.status.wait_for(|status| status.phase == Phase::Running).await.unwrap();
            commands.send(Command::Kill).await.unwrap();
            assert_eq!(life.await.unwrap(), EndReason::Killed);
        });
    }
}
