//! Removing groups with and without something in them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::{CgroupError, Hierarchy, Limits, REMOVAL_DEADLINE, Removal};
use rustix::process::{Pid, WaitOptions, set_child_subreaper, test_kill_process, waitpid};
use tokio_util::sync::CancellationToken;
use tracing::subscriber::set_default;

use support::{Place, logger, pid_of, sleeper};

/// Starts a process in the group whose parent is gone at once, as a program does that wants to outlive its starter.
/// It becomes a child of this process, so that the test can reap it.
fn leak_into(group: &Path) -> Pid {
    set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let script = "echo $$ > \"$1\"; sleep 600 >/dev/null 2>&1 & echo $!";
    let output = Command::new("setsid")
        .args(["sh", "-c", script, "sh"])
        .arg(group.join("cgroup.procs"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    Pid::from_raw(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn an_empty_group_goes_in_silence() {
    let (log, subscriber) = logger();
    let _guard = set_default(subscriber);
    let place = Place::new();
    let group = place.hierarchy.create(&place.name, &Limits::default()).unwrap();
    assert_eq!(group.remove("iquiet", &CancellationToken::new()).await.unwrap(), Removal::Clean);
    assert!(!place.dir().exists());
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn a_group_that_is_gone_is_removed() {
    let place = Place::new();
    let group = place.hierarchy.open(&place.name).unwrap();
    assert_eq!(group.remove("igone", &CancellationToken::new()).await.unwrap(), Removal::Clean);
}

#[tokio::test]
async fn a_leaked_process_is_killed_and_the_group_goes() {
    let (log, subscriber) = logger();
    let _guard = set_default(subscriber);
    let place = Place::new();
    let group = place.hierarchy.create(&place.name.join("vmm"), &Limits::default()).unwrap();
    let leaked = leak_into(group.path());
    assert_eq!(group.procs().unwrap(), [leaked]);

    let whole = place.hierarchy.open(&place.name).unwrap();
    let removal = whole.remove("ileaky", &CancellationToken::new()).await.unwrap();
    let Removal::Forced { waited, killed_via_cgroup } = removal else { panic!("{removal:?}") };
    assert!(killed_via_cgroup);
    assert!(waited < REMOVAL_DEADLINE);
    assert!(!place.dir().exists());

    // The id of a zombie still answers; only after it was reaped is the answer about the process.
    let (pid, status) = waitpid(Some(leaked), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!((pid, status.terminating_signal()), (leaked, Some(9)));
    assert_eq!(test_kill_process(leaked), Err(rustix::io::Errno::SRCH));

    let text = log.text();
    assert!(text.contains("WARN") && text.contains("ileaky"), "{text}");
    assert!(text.contains("os error 16"), "the first error (EBUSY) is named: {text}");
}

#[tokio::test]
async fn cancelling_stops_the_attempts() {
    let place = Place::new();
    let group = place.hierarchy.create(&place.name, &Limits::default()).unwrap();
    let mut child = sleeper();
    group.add(pid_of(&child)).unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let begun = Instant::now();
    let error = group.remove("icancel", &cancel).await.unwrap_err();
    assert!(matches!(error, CgroupError::Cancelled { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(1));
    child.wait().unwrap();
}

#[tokio::test]
async fn a_second_removal_finishes_what_a_cancelled_one_began() {
    let place = Place::new();
    let group = place.hierarchy.create(&place.name, &Limits::default()).unwrap();
    let leaked = leak_into(group.path());
    let cancel = CancellationToken::new();
    cancel.cancel();
    group.remove("iagain", &cancel).await.unwrap_err();
    let group = place.hierarchy.open(&place.name).unwrap();
    group.remove("iagain", &CancellationToken::new()).await.unwrap();
    assert!(!place.dir().exists());
    waitpid(Some(leaked), WaitOptions::empty()).unwrap();
}

/// A directory that stands in for a group on a kernel without `cgroup.kill`: what holds it is a file.
fn blocked_dir() -> (tempfile::TempDir, Hierarchy) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("g")).unwrap();
    std::fs::write(dir.path().join("g/holder"), "").unwrap();
    let hierarchy = Hierarchy::at(dir.path());
    (dir, hierarchy)
}

#[tokio::test]
async fn without_cgroup_kill_it_waits_for_the_processes() {
    let (log, subscriber) = logger();
    let _guard = set_default(subscriber);
    let (dir, hierarchy) = blocked_dir();
    let group = hierarchy.open(Path::new("g")).unwrap();
    let removing = tokio::spawn(async move { group.remove("iold", &CancellationToken::new()).await });
    let deadline = Instant::now() + Duration::from_secs(2);
    while !log.text().contains("iold") {
        assert!(Instant::now() < deadline, "the first attempt failed without a word");
        tokio::task::yield_now().await;
    }
    std::fs::remove_file(dir.path().join("g/holder")).unwrap();
    let removal = removing.await.unwrap().unwrap();
    assert!(matches!(removal, Removal::Forced { killed_via_cgroup: false, .. }), "{removal:?}");
    assert!(!dir.path().join("g").exists());
}

#[tokio::test]
async fn a_group_that_stays_busy_is_reported_and_unreadable_is_not_called_empty() {
    let (dir, hierarchy) = blocked_dir();
    std::fs::create_dir(dir.path().join("g/cgroup.procs")).unwrap();
    std::fs::write(dir.path().join("g/cgroup.procs/holder"), "").unwrap();
    let group = hierarchy.open(Path::new("g")).unwrap();
    assert_eq!(group.procs().unwrap_err().kind(), io::ErrorKind::IsADirectory);
    let begun = Instant::now();
    let error = group.remove("istuck", &CancellationToken::new()).await.unwrap_err();
    assert!(begun.elapsed() >= REMOVAL_DEADLINE);
    let CgroupError::StillBusy { holders, .. } = &error else { panic!("{error}") };
    assert!(holders.contains("unknown"), "{holders}");
}
