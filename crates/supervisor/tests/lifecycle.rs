//! The rules of the lifecycle against every sequence of what can happen, and the task that applies them.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::collections::HashSet;
use std::future::ready;
use std::time::{Duration, Instant};

use control::{Checkpoint, EndTime, Keep, Phase, Status};
use jiff::{SignedDuration, Timestamp};
use model::{BuildId, EndReason, OnTimeout};
use supervisor::lifecycle::rules::{Effect, Input, PauseOutcome, State, Terms};
use supervisor::lifecycle::{Answer, Command, Lifecycle, Timing, Work};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

fn build() -> BuildId {
    "b".parse().unwrap()
}

fn everything() -> Vec<Input> {
    vec![
        Input::Ready,
        Input::Initialised(Ok(())),
        Input::Initialised(Err("no".into())),
        Input::LaunchFailed("no VMM".into()),
        Input::VmmGone(EndReason::GuestExited),
        Input::VmmGone(EndReason::VmmDied("signal 9".into())),
        Input::VmmGone(EndReason::MemoryUnusable("memory.data is damaged".into())),
        Input::Late("too late".into()),
        Input::EndTime,
        Input::Pause,
        Input::Wake,
        Input::Kill,
        Input::PauseOver(PauseOutcome::Committed(build())),
        Input::PauseOver(PauseOutcome::Cancelled),
        Input::PauseOver(PauseOutcome::Failed("disk full".into())),
        Input::PauseOver(PauseOutcome::Lost("no way back".into())),
    ]
}

/// What the outside sees of a life, by which right and wrong are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    state: State,
    /// A pause task runs.
    pausing: bool,
    /// It was asked to give up.
    cancelled: bool,
    /// A pause that was begun has not been answered.
    owed: bool,
    /// An initialisation was begun.
    initialising: bool,
}

/// What can happen at all: a task reports only while it runs, and one that was never asked to give up does not.
fn possible(world: &World, input: &Input) -> bool {
    match input {
        Input::PauseOver(PauseOutcome::Cancelled) => world.pausing && world.cancelled,
        Input::PauseOver(_) => world.pausing,
        Input::Initialised(_) => world.initialising,
        _ => true,
    }
}

fn step(world: &World, input: &Input, terms: Terms) -> World {
    let before = world;
    let mut world = world.clone();
    match input {
        Input::PauseOver(_) => world.pausing = false,
        Input::Initialised(_) => world.initialising = false,
        _ => {}
    }
    let (state, effects) = world.state.clone().on(input.clone(), terms);
    world.state = state;
    let after = world.state.clone();
    let told = || format!("{before:?} on {input:?} became {after:?} with {effects:?}");
    for effect in &effects {
        match effect {
            Effect::BeginPause => {
                assert!(!before.pausing, "one pause at a time: {}", told());
                (world.pausing, world.cancelled, world.owed) = (true, false, true);
            }
            Effect::CancelPause => {
                assert!(before.pausing, "{}", told());
                world.cancelled = true;
            }
            Effect::Answer(outcome) => {
                assert!(before.owed, "an answer to nobody: {}", told());
                world.owed = false;
                let committed = matches!(input, Input::PauseOver(PauseOutcome::Committed(_)));
                assert_eq!(outcome.is_ok(), committed, "success means committed: {}", told());
            }
            Effect::Refuse(_) => assert_eq!(*input, Input::Pause, "{}", told()),
            Effect::Initialise => {
                assert!(!before.initialising && !terms.template, "{}", told());
                world.initialising = true;
            }
            Effect::BeginLifetime | Effect::Postpone => assert_eq!(world.state, State::Running, "{}", told()),
        }
    }
    if *input == Input::Pause {
        let begun = effects.contains(&Effect::BeginPause);
        let refused = effects.iter().any(|effect| matches!(effect, Effect::Refuse(_)));
        assert!(begun != refused, "every pause is begun or refused: {}", told());
    }
    // A commit is never called anything else, unless the sandbox was killed before it came.
    if let Input::PauseOver(PauseOutcome::Committed(build)) = input {
        match (&before.state, &world.state) {
            (State::Pausing { .. }, State::Over(EndReason::Paused(found))) => assert_eq!(found, build),
            (State::Over(EndReason::Killed), State::Over(EndReason::Killed)) => {}
            other => panic!("{other:?}: {}", told()),
        }
    }
    if let State::Over(why) = &before.state {
        assert_eq!(world.state, State::Over(why.clone()), "the end is the end: {}", told());
    }
    if matches!(world.state, State::Over(_)) {
        assert!(!world.owed, "nobody waits for ever: {}", told());
    }
    if world.state == State::Running {
        assert!(!world.pausing, "it runs only when no pause is under way: {}", told());
    }
    if *input == Input::Kill {
        assert!(matches!(world.state, State::Over(_)), "every state can be killed: {}", told());
    }
    world
}

/// Every state that can be reached, through everything that can happen in it: the rules have finitely many, so this is
/// all there is.
#[test]
fn every_reachable_state_obeys() {
    for on_timeout in [OnTimeout::Kill, OnTimeout::Pause] {
        for template in [false, true] {
            let terms = Terms { on_timeout, template };
            let first = World {
                state: State::first(),
                pausing: false,
                cancelled: false,
                owed: false,
                initialising: false,
            };
            let mut seen = HashSet::from([first.clone()]);
            let mut left = vec![first];
            let mut steps = 0;
            while let Some(world) = left.pop() {
                for input in everything().iter().filter(|input| possible(&world, input)) {
                    steps += 1;
                    let next = step(&world, input, terms);
                    if seen.insert(next.clone()) {
                        left.push(next);
                    }
                }
            }
            let running = seen.iter().any(|world| world.state == State::Running);
            assert_eq!(running, !template, "a template is used by nobody");
            let paused = seen.iter().any(|world| matches!(world.state, State::Over(EndReason::Paused(_))));
            assert!(paused && steps > 100, "{steps}");
        }
    }
}

/// Whatever the state, a pause task that reports in the end leads out of Pausing.
#[test]
fn no_pause_lasts_beyond_its_task() {
    let terms = Terms { on_timeout: OnTimeout::Pause, template: false };
    for woken in [false, true] {
        for gone in [None, Some(EndReason::GuestExited)] {
            for input in everything() {
                let Input::PauseOver(_) = input else { continue };
                let (state, _) = State::Pausing { woken, gone: gone.clone() }.on(input, terms);
                assert!(!matches!(state, State::Pausing { .. }));
            }
        }
    }
}

fn status() -> Status {
    Status {
        id: model::SandboxId::random(),
        phase: Phase::Starting,
        end_at: Timestamp::now(),
        envd_version: String::new(),
        supervisor_pid: 1,
        vmm_pid: None,
        cgroup_forced_removals: 0,
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn lifecycle(lifetime: Duration) -> (mpsc::Sender<Command>, watch::Receiver<Status>, Lifecycle) {
    let (commands, queue) = mpsc::channel(16);
    let (sender, watcher) = watch::channel(status());
    let timing =
        Timing { ready: Some(HOUR), init: Some(HOUR), lifetime: SignedDuration::try_from(lifetime).unwrap() };
    let terms = Terms { on_timeout: OnTimeout::Kill, template: false };
    (commands, watcher, Lifecycle::new(queue, sender, timing, terms))
}

fn local<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Does nothing: the tests report in its place.
struct Idle;

impl Work for Idle {
    fn initialise(&mut self) -> impl Future<Output = ()> + 'static {
        ready(())
    }

    fn pause(&mut self, _: Option<Keep>, _: CancellationToken) -> impl Future<Output = ()> + 'static {
        ready(())
    }

    fn snapshot(&mut self, _: Checkpoint, _: Answer) -> impl Future<Output = ()> + 'static {
        ready(())
    }
}

#[test]
fn a_guest_that_never_stops_talking_ends_at_its_end_time() {
    local(async {
        let (commands, mut watcher, lifecycle) = lifecycle(Duration::from_millis(300));
        let life = tokio::task::spawn_local(lifecycle.run(Idle));
        commands.send(Command::Ready("1".into())).await.unwrap();
        commands.send(Command::Initialised(Ok(()))).await.unwrap();
        watcher.wait_for(|status| status.phase == Phase::Running).await.unwrap();
        let begun = Instant::now();
        // More talkers than the guest's endpoint lets connect.
        for _ in 0..64 {
            let commands = commands.clone();
            tokio::task::spawn_local(async move {
                while commands.send(Command::Ready("2".into())).await.is_ok() {
                    tokio::task::yield_now().await;
                }
            });
        }
        assert_eq!(life.await.unwrap(), EndReason::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    });
}

#[test]
fn an_end_time_in_the_past_ends_it_at_once() {
    local(async {
        let (commands, _watcher, lifecycle) = lifecycle(HOUR);
        let life = tokio::task::spawn_local(lifecycle.run(Idle));
        commands.send(Command::Ready("1".into())).await.unwrap();
        commands.send(Command::Initialised(Ok(()))).await.unwrap();
        let (reply, answer) = oneshot::channel();
        let end = EndTime { end_at: Timestamp::MIN, only_extend: false, wake: false };
        commands.send(Command::SetEnd(end, reply)).await.unwrap();
        assert_eq!(answer.await.unwrap().end_at, Timestamp::MIN);
        assert_eq!(life.await.unwrap(), EndReason::TimedOut);
    });
}

#[test]
fn a_life_that_nobody_can_command_any_more_ends() {
    local(async {
        let (commands, watcher, lifecycle) = lifecycle(HOUR);
        drop(commands);
        assert_eq!(lifecycle.run(Idle).await, EndReason::Killed);
        assert_eq!(watcher.borrow().phase, Phase::Ending);
    });
}
