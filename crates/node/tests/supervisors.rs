//! A node and its supervisors, in good times and bad: real processes, control groups, namespaces and VMMs.
//!
//! This program is also the supervisor that it starts, so it has a main function of its own. Like a test program it
//! takes parts of names as arguments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that has a main function of its own"
)]

#[path = "../../vmm/tests/common/guest.rs"]
mod guest;
mod support;

use std::collections::HashSet;
use std::panic::catch_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use model::{Fleet, FleetError, MiB};
use rustix::process::{Pid, Signal, kill_process};
use support::{Rig, is_alive, run_for, zombie_children};

/// What clients are told of a death at the latest.
const NOTICE: Duration = Duration::from_secs(1);
/// A kill that needs force.
const FORCE: Duration = Duration::from_secs(6);

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    (
        "a_missing_kernel_is_a_failed_start_that_leaves_nothing",
        a_missing_kernel_is_a_failed_start_that_leaves_nothing,
    ),
    (
        "a_missing_supervisor_is_an_error_that_leaves_nothing",
        a_missing_supervisor_is_an_error_that_leaves_nothing,
    ),
    ("a_sandbox_runs_and_leaves_nothing", a_sandbox_runs_and_leaves_nothing),
    ("a_dead_vmm_is_noticed", a_dead_vmm_is_noticed),
    (
        "a_dead_supervisor_is_noticed_and_takes_its_vmm_along",
        a_dead_supervisor_is_noticed_and_takes_its_vmm_along,
    ),
    ("a_stopped_supervisor_can_be_killed", a_stopped_supervisor_can_be_killed),
    (
        "a_supervisor_that_stops_while_it_starts_can_be_killed",
        a_supervisor_that_stops_while_it_starts_can_be_killed,
    ),
    ("a_silent_guest_is_a_failed_start", a_silent_guest_is_a_failed_start),
    ("a_sandbox_ends_at_its_end_time", a_sandbox_ends_at_its_end_time),
    (
        "a_successor_adopts_what_runs_and_reclaims_the_rest",
        a_successor_adopts_what_runs_and_reclaims_the_rest,
    ),
    ("a_successor_adopts_what_starts", a_successor_adopts_what_starts),
    ("one_key_makes_one_sandbox", one_key_makes_one_sandbox),
    ("limits_hold_and_a_lowered_one_ends_nothing", limits_hold_and_a_lowered_one_ends_nothing),
    ("nothing_is_left_whatever_happens_when", nothing_is_left_whatever_happens_when),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = arguments.as_slice()
        && role == "supervisor"
    {
        return match supervisor::run(Path::new(dir), &[]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let mut failed = 0;
    // One after the other: each of them is several machines.
    for (name, test) in TESTS.iter().filter(|(name, _)| wants(name)) {
        let begun = Instant::now();
        let passed = catch_unwind(test).is_ok();
        failed += usize::from(!passed);
        println!("test {name} ... {} ({:.1?})", if passed { "ok" } else { "FAILED" }, begun.elapsed());
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn send(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

fn a_missing_kernel_is_a_failed_start_that_leaves_nothing() {
    let mut rig = Rig::new();
    rig.files.kernel = "/nonexistent/kernel".into();
    rig.start();
    for _ in 0..2 {
        let error = rig.create(rig.wanted(None)).unwrap_err();
        assert!(
            matches!(&error, FleetError::StartFailed(text) if text.contains("/nonexistent/kernel")),
            "{error}"
        );
    }
    assert_eq!(zombie_children(), [0_i32; 0]);
    rig.ends_clean();
}

fn a_missing_supervisor_is_an_error_that_leaves_nothing() {
    let mut rig = Rig::new();
    rig.config.binary = "/nonexistent/coldframe".into();
    rig.start();
    let error = rig.create(rig.wanted(None)).unwrap_err();
    assert!(matches!(&error, FleetError::Internal(_)), "{error}");
    rig.ends_clean();

    // One that ends at once.
    let mut rig = Rig::new();
    rig.config.binary = "/bin/false".into();
    rig.start();
    let error = rig.create(rig.wanted(None)).unwrap_err();
    assert!(matches!(&error, FleetError::StartFailed(_)), "{error}");
    assert_eq!(zombie_children(), [0_i32; 0]);
    rig.ends_clean();
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn a_sandbox_runs_and_leaves_nothing() {
    let rig = Rig::started();
    let mut files = Vec::new();
    for _ in 0..3 {
        let record = rig.create(rig.wanted(None)).unwrap();
        let id = record.spec.id;
        assert_eq!(record.envd_version, "0.6.13");
        assert!(rig.exists(&id) && rig.node().reach(&id).is_some());
        let vmm = rig.status(&id).vmm_pid.unwrap();
        rig.kill(&id).unwrap();
        assert!(!rig.exists(&id) && !is_alive(vmm) && !rig.dir(&id).exists());
        assert!(matches!(rig.kill(&id), Err(FleetError::NotFound(_))));
        assert!(!rig.census().iter().any(|found| found.contains(id.as_str())), "{:?}", rig.census());
        rig.settle();
        files.push(open_files());
    }
    // The next slot may be in the making at the moment of a count.
    rig.wait_for("no more open files than after the first", || open_files() <= files[0]);
    assert_eq!(zombie_children(), [0_i32; 0]);
    rig.ends_clean();
}

fn a_dead_vmm_is_noticed() {
    let rig = Rig::started();
    let id = rig.create(rig.wanted(None)).unwrap().spec.id;
    let status = rig.status(&id);
    send(status.vmm_pid.unwrap(), Signal::KILL);
    run_for(NOTICE, "the end of the VMM to be noticed", || !rig.exists(&id));
    rig.wait_for("everything to be released", || !rig.dir(&id).exists());
    assert!(!is_alive(status.supervisor_pid));
    assert_eq!(zombie_children(), [0_i32; 0]);
    rig.ends_clean();
}

fn a_dead_supervisor_is_noticed_and_takes_its_vmm_along() {
    let rig = Rig::started();
    let id = rig.create(rig.wanted(None)).unwrap().spec.id;
    let status = rig.status(&id);
    send(status.supervisor_pid, Signal::KILL);
    run_for(NOTICE, "the end of the supervisor to be noticed", || !rig.exists(&id));
    run_for(NOTICE, "the VMM to die with it", || !is_alive(status.vmm_pid.unwrap()));
    rig.wait_for("everything to be released", || !rig.dir(&id).exists());
    assert_eq!(zombie_children(), [0_i32; 0]);
    rig.ends_clean();
}

fn a_stopped_supervisor_can_be_killed() {
    let rig = Rig::started();
    let id = rig.create(rig.wanted(None)).unwrap().spec.id;
    let status = rig.status(&id);
    send(status.supervisor_pid, Signal::STOP);
    let begun = Instant::now();
    // A client that loses patience does not keep the force from being used.
    let impatient = rig
        .run(async |node| tokio::time::timeout(Duration::from_millis(200), node.kill(&rig.team, &id)).await);
    assert!(impatient.is_err());
    rig.kill(&id).unwrap();
    assert!(begun.elapsed() < FORCE, "{:?}", begun.elapsed());
    assert!(!is_alive(status.supervisor_pid) && !is_alive(status.vmm_pid.unwrap()) && !rig.exists(&id));
    assert_eq!(zombie_children(), [0_i32; 0]);
    rig.ends_clean();
}

fn a_supervisor_that_stops_while_it_starts_can_be_killed() {
    let mut rig = Rig::new();
    rig.silence();
    rig.start();
    let (node, wanted) = (rig.node().clone(), rig.wanted(None));
    let create = rig.beside(async move { node.create(wanted).await });
    let status = rig.first_status();
    send(status.supervisor_pid, Signal::STOP);
    let begun = Instant::now();
    rig.run(async |node| node.kill_all().await);
    assert!(begun.elapsed() < FORCE, "{:?}", begun.elapsed());
    let error = rig.run(async |_| create.await).unwrap().unwrap_err();
    // Whether the kill or the deadline of a loaded host ended it first, the client is told that it did not start.
    assert!(matches!(error, FleetError::Conflict(_) | FleetError::StartFailed(_)), "{error}");
    assert!(!is_alive(status.supervisor_pid));
    rig.ends_clean();
}

fn a_silent_guest_is_a_failed_start() {
    let mut rig = Rig::new();
    rig.silence();
    rig.config.ready = Duration::from_secs(2);
    rig.start();
    let error = rig.create(rig.wanted(None)).unwrap_err();
    assert!(matches!(&error, FleetError::StartFailed(text) if text.contains("waited 2s")), "{error}");
    rig.ends_clean();
}

fn a_sandbox_ends_at_its_end_time() {
    let rig = Rig::started();
    let id = rig.create(rig.wanted(None)).unwrap().spec.id;
    let later = rig
        .run(async |node| node.set_timeout(&rig.team, &id, Duration::from_secs(5000), true).await)
        .unwrap();
    assert_eq!(rig.node().get(&rig.team, &id).unwrap().end_at, later.end_at);
    rig.run(async |node| node.set_timeout(&rig.team, &id, Duration::from_secs(1), false).await).unwrap();
    rig.wait_for("the sandbox to end", || !rig.exists(&id));
    rig.wait_for("everything to be released", || !rig.dir(&id).exists());
    rig.ends_clean();
}

fn a_successor_adopts_what_runs_and_reclaims_the_rest() {
    let mut rig = Rig::started();
    let ids: Vec<_> = (0..3).map(|_| rig.create(rig.wanted(None)).unwrap().spec.id).collect();
    let [runs, dead, stopped] = ids.as_slice() else { unreachable!() };
    let [_, of_dead, of_stopped] = [runs, dead, stopped].map(|id| rig.status(id));
    let before = rig.node().get(&rig.team, runs).unwrap();

    rig.stop();
    let slots = rig.census().iter().filter(|found| found.starts_with("namespace")).count();
    assert_eq!(slots, 3, "an orderly stop leaves the sandboxes their network: {:?}", rig.census());
    send(of_dead.supervisor_pid, Signal::KILL);
    send(of_stopped.supervisor_pid, Signal::STOP);
    // What else a crash may leave.
    std::fs::create_dir(rig.config.sandboxes.join("half")).unwrap();
    std::fs::write(rig.config.sandboxes.join("stray"), "").unwrap();

    let begun = Instant::now();
    rig.start();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let after = rig.node().get(&rig.team, runs).unwrap();
    assert_eq!((after.end_at, after.envd_version), (before.end_at, before.envd_version));
    assert!(!rig.exists(dead) && !rig.exists(stopped));
    for status in [of_dead, of_stopped] {
        assert!(!is_alive(status.supervisor_pid) && !is_alive(status.vmm_pid.unwrap()));
    }
    let names = |found: &String| found.starts_with("directory") || found.starts_with("control group");
    assert_eq!(rig.census().iter().filter(|found| names(found)).count(), 2, "{:?}", rig.census());

    // It is under the successor's control in every respect, and its slot is not given to another.
    rig.run(async |node| node.set_timeout(&rig.team, runs, Duration::from_secs(300), false).await).unwrap();
    let another = rig.create(rig.wanted(None)).unwrap().spec.id;
    rig.kill(runs).unwrap();
    rig.kill(&another).unwrap();
    rig.ends_clean();
}

fn a_successor_adopts_what_starts() {
    let mut rig = Rig::new();
    // Nobody answers for the guest before the successor is there.
    rig.silence();
    rig.start();
    let (node, wanted) = (rig.node().clone(), rig.wanted(Some("key")));
    let create = rig.beside(async move { node.create(wanted).await });
    let status = rig.first_status();
    rig.crash();
    drop(create);
    assert!(is_alive(status.supervisor_pid));
    rig.start();
    assert!(!rig.exists(&status.id), "it does not run yet");
    rig.speak();
    let again = rig.create(rig.wanted(Some("key"))).unwrap();
    assert_eq!(again.spec.id, status.id, "whoever repeats the create gets the sandbox that was being made");
    rig.kill(&status.id).unwrap();
    rig.ends_clean();
}

fn one_key_makes_one_sandbox() {
    let mut rig = Rig::started();
    let ids = rig.run(async |node| {
        let creates = (0..4).map(|_| node.create(rig.wanted(Some("key"))));
        futures_util::future::join_all(creates).await
    });
    let ids: Vec<_> = ids.into_iter().map(|record| record.unwrap().spec.id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(rig.node().list(&rig.team).len(), 1);
    let mut foreign = rig.wanted(Some("key"));
    foreign.team = model::TeamId::random();
    let other_team = foreign.team.clone();
    let other = rig.create(foreign).unwrap().spec.id;
    assert_ne!(other, ids[0], "keys of two teams have nothing to do with each other");
    rig.run(async |node| node.kill(&other_team, &other).await).unwrap();

    rig.crash();
    rig.start();
    assert_eq!(rig.create(rig.wanted(Some("key"))).unwrap().spec.id, ids[0], "also after a restart");
    rig.kill(&ids[0]).unwrap();
    let next = rig.create(rig.wanted(Some("key"))).unwrap().spec.id;
    assert_ne!(next, ids[0], "what is gone is not given again");
    rig.kill(&next).unwrap();
    rig.ends_clean();
}

fn limits_hold_and_a_lowered_one_ends_nothing() {
    let mut rig = Rig::new();
    rig.config.memory = MiB(400);
    rig.start();
    let id = rig.create(rig.wanted(None)).unwrap().spec.id;
    let mut large = rig.wanted(None);
    large.shape.memory = MiB(300);
    let error = rig.create(large).unwrap_err();
    assert!(matches!(&error, FleetError::NoCapacity(text) if text.contains("208 MiB are free")), "{error}");

    rig.crash();
    rig.config.memory = MiB(100);
    rig.start();
    assert!(rig.exists(&id));
    let error = rig.create(rig.wanted(None)).unwrap_err();
    assert!(matches!(&error, FleetError::NoCapacity(text) if text.contains("0 MiB are free")), "{error}");

    rig.crash();
    rig.config.memory = MiB(4096);
    rig.config.max_sandboxes = 1;
    rig.start();
    let error = rig.create(rig.wanted(None)).unwrap_err();
    assert!(matches!(error, FleetError::NoCapacity(_)), "{error}");
    rig.kill(&id).unwrap();
    let next = rig.create(rig.wanted(None)).unwrap().spec.id;
    rig.kill(&next).unwrap();
    rig.run(async |node| node.stop().await);
    let error = rig.create(rig.wanted(None)).unwrap_err();
    assert!(matches!(&error, FleetError::NoCapacity(text) if text.contains("shutting down")), "{error}");
    rig.ends_clean();
}

/// Creates and ends of every kind at the same time, at moments that differ from sandbox to sandbox.
fn nothing_is_left_whatever_happens_when() {
    const SANDBOXES: usize = 20;
    // Supervisors that an earlier test adopted are our children all the same.
    let before = zombie_children();
    let mut rig = Rig::new();
    rig.config.max_sandboxes = SANDBOXES;
    rig.config.concurrent_starts = 4;
    rig.config.start_queue = SANDBOXES;
    rig.config.slots_ahead = 4;
    rig.start();
    let creates: Vec<_> = (0..SANDBOXES)
        .map(|number| {
            let (node, mut wanted) = (rig.node().clone(), rig.wanted(None));
            wanted.timeout = Duration::from_millis(if number % 6 == 5 { 50 } else { 60_000 });
            rig.beside(async move { node.create(wanted).await })
        })
        .collect();
    let mut seen = HashSet::new();
    let begun = Instant::now();
    while creates.iter().any(|create| !create.is_finished()) {
        assert!(begun.elapsed() < Duration::from_secs(60), "the creates did not end");
        for dir in std::fs::read_dir(&rig.config.sandboxes).unwrap().flatten() {
            if seen.contains(&dir.path()) {
                continue;
            }
            let Ok(status) = rig.run(async |_| control::Client::new(&dir.path()).status().await) else {
                continue;
            };
            let number = seen.len();
            seen.insert(dir.path());
            // From before its VMM is launched until it runs.
            std::thread::sleep(Duration::from_millis(u64::try_from(number).unwrap() * 7 % 60));
            let signal = |pid: i32, signal| {
                // It may have ended by itself meanwhile.
                let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
            };
            match number % 6 {
                0 => signal(status.supervisor_pid, Signal::KILL),
                1 => signal(status.supervisor_pid, Signal::STOP),
                2 => status.vmm_pid.into_iter().for_each(|pid| signal(pid, Signal::KILL)),
                3 => {
                    let client = control::Client::new(&dir.path());
                    drop(rig.beside(async move { client.kill().await }));
                }
                4 => {
                    let (node, team, id) = (rig.node().clone(), rig.team.clone(), status.id);
                    drop(rig.beside(async move { node.kill(&team, &id).await }));
                }
                _ => {}
            }
        }
        // Those that were stopped while they started would wait for their deadline.
        if seen.len() == SANDBOXES {
            rig.run(async |node| node.kill_all().await);
        }
        std::thread::sleep(Duration::from_millis(5));
        if begun.elapsed() > Duration::from_secs(20) {
            rig.run(async |node| node.kill_all().await);
        }
    }
    rig.run(async |node| node.kill_all().await);
    assert!(rig.node().list(&rig.team).is_empty());
    let zombies: Vec<i32> = zombie_children().into_iter().filter(|pid| !before.contains(pid)).collect();
    assert_eq!(zombies, [0_i32; 0]);
    let room = rig.create(rig.wanted(None)).unwrap().spec.id;
    rig.kill(&room).unwrap();
    rig.ends_clean();
}
