//! The lifecycle against every short sequence of what can be said to it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use control::{EndTime, Phase, Status};
use jiff::{SignedDuration, Timestamp};
use model::EndReason;
use supervisor::lifecycle::{Command, Lifecycle, Timing};
use tokio::sync::{mpsc, oneshot, watch};

/// Everything that can be said, without what only carries data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Launched,
    LaunchFailed,
    Ready,
    Initialised,
    NotInitialised,
    GuestExited,
    VmmDied,
    Extend,
    Kill,
}

const EVERYTHING: [Said; 9] = [
    Said::Launched,
    Said::LaunchFailed,
    Said::Ready,
    Said::Initialised,
    Said::NotInitialised,
    Said::GuestExited,
    Said::VmmDied,
    Said::Extend,
    Said::Kill,
];
/// All sequences up to this length are tried.
const LONGEST: u32 = 5;

const HOUR: Duration = Duration::from_secs(3600);

fn command(said: Said) -> Command {
    match said {
        Said::Launched => Command::Launched(7),
        Said::LaunchFailed => Command::LaunchFailed("no VMM".into()),
        Said::Ready => Command::Ready("0.6.13".into()),
        Said::Initialised => Command::Initialised(Ok(())),
        Said::NotInitialised => Command::Initialised(Err("no".into())),
        Said::GuestExited => Command::VmmGone(EndReason::GuestExited),
        Said::VmmDied => Command::VmmGone(EndReason::VmmDied("signal 9".into())),
        Said::Extend => {
            let later = Timestamp::now().saturating_add(SignedDuration::from_hours(9)).unwrap();
            // The answer is nobody's: its absence must not matter.
            Command::SetEnd(EndTime { end_at: later, only_extend: true }, oneshot::channel().0)
        }
        Said::Kill => Command::Kill,
    }
}

/// What must come of a sequence, by the table in the lifecycle's documentation. After the sequence the queue closes,
/// which counts as a kill.
fn expected(sequence: &[Said]) -> EndReason {
    let mut phase = Phase::Starting;
    for said in sequence {
        match (phase, said) {
            (_, Said::Kill) => return EndReason::Killed,
            (_, Said::LaunchFailed | Said::NotInitialised) => return EndReason::StartFailed(String::new()),
            (Phase::Starting, Said::GuestExited | Said::VmmDied) => {
                return EndReason::StartFailed(String::new());
            }
            (_, Said::GuestExited) => return EndReason::GuestExited,
            (_, Said::VmmDied) => return EndReason::VmmDied(String::new()),
            (_, Said::Initialised) => phase = Phase::Running,
            (_, Said::Launched | Said::Ready | Said::Extend) => {}
        }
    }
    EndReason::Killed
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

fn timing(lifetime: Duration) -> Timing {
    Timing { ready: HOUR, init: HOUR, lifetime: SignedDuration::try_from(lifetime).unwrap() }
}

fn local<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

async fn live(sequence: &[Said]) -> (EndReason, Status, u32) {
    let (commands, queue) = mpsc::channel(16);
    let (sender, watcher) = watch::channel(status());
    for said in sequence {
        commands.try_send(command(*said)).unwrap();
    }
    drop(commands);
    let begun = Rc::new(Cell::new(0));
    let count = Rc::clone(&begun);
    let initialise = move || {
        count.set(count.get() + 1);
        async {}
    };
    let why = Lifecycle::new(queue, sender, timing(HOUR)).run(initialise).await;
    let last = watcher.borrow().clone();
    (why, last, begun.get())
}

#[test]
fn every_short_sequence_ends_as_the_table_says() {
    let mut tried = 0_u32;
    local(async {
        for length in 0..=LONGEST {
            for number in 0..9_usize.pow(length) {
                let mut rest = number;
                let sequence: Vec<Said> = (0..length)
                    .map(|_| {
                        let said = EVERYTHING[rest % 9];
                        rest /= 9;
                        said
                    })
                    .collect();
                let (why, last, begun) = live(&sequence).await;
                let same = std::mem::discriminant(&why) == std::mem::discriminant(&expected(&sequence));
                assert!(same, "{sequence:?}: {why:?}");
                assert_eq!(last.phase, Phase::Ending, "{sequence:?}");
                assert!(begun <= 1, "{sequence:?}: told who it is {begun} times");
                tried += 1;
            }
        }
    });
    assert_eq!(tried, 1 + 9 + 81 + 729 + 6561 + 59049);
}

#[test]
fn a_guest_that_never_stops_talking_ends_at_its_end_time() {
    local(async {
        let (commands, queue) = mpsc::channel(16);
        let (sender, mut watcher) = watch::channel(status());
        let lifecycle = Lifecycle::new(queue, sender, timing(Duration::from_millis(300)));
        let life = tokio::task::spawn_local(lifecycle.run(|| async {}));
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
        let (commands, queue) = mpsc::channel(16);
        let (sender, _watcher) = watch::channel(status());
        let lifecycle = Lifecycle::new(queue, sender, timing(HOUR));
        let life = tokio::task::spawn_local(lifecycle.run(|| async {}));
        commands.send(Command::Ready("1".into())).await.unwrap();
        commands.send(Command::Initialised(Ok(()))).await.unwrap();
        let (reply, answer) = oneshot::channel();
        let end = EndTime { end_at: Timestamp::MIN, only_extend: false };
        commands.send(Command::SetEnd(end, reply)).await.unwrap();
        assert_eq!(answer.await.unwrap().end_at, Timestamp::MIN);
        assert_eq!(life.await.unwrap(), EndReason::TimedOut);
    });
}
