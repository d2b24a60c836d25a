//! Making groups, joining them, limiting them.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cgroup::{CgroupError, Limits, Removal};
use rustix::process::Pid;
use tokio_util::sync::CancellationToken;

use support::{Place, pid_of, sleeper};

#[tokio::test]
async fn missing_parents_are_made_and_go_with_the_group() {
    let place = Place::new();
    let deep = place.name.join("sandbox/vmm");
    let group = place.hierarchy.create(&deep, &Limits::default()).unwrap();
    assert_eq!(group.path(), place.dir().join("sandbox/vmm"));
    assert!(!group.populated().unwrap());
    assert_eq!(group.procs().unwrap(), []);
    assert_eq!(place.hierarchy.children(&place.name).unwrap(), ["sandbox"]);
    assert!(place.hierarchy.children(Path::new("")).unwrap().contains(&place.name.display().to_string()));

    let whole = place.hierarchy.open(&place.name).unwrap();
    let removal = whole.remove("itest", &CancellationToken::new()).await.unwrap();
    assert_eq!(removal, Removal::Clean);
    assert!(!place.dir().exists());
    assert_eq!(place.hierarchy.children(&place.name).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn names_that_leave_the_hierarchy_are_refused() {
    let place = Place::new();
    for bad in ["", "/", "/abs", "..", "a/../../b", "./a/.."] {
        let refused = place.hierarchy.create(Path::new(bad), &Limits::default());
        assert!(matches!(refused, Err(CgroupError::BadPath { .. })), "{bad:?}");
        assert!(place.hierarchy.open(Path::new(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn a_process_is_moved_in_seen_and_killed() {
    let place = Place::new();
    let group = place.hierarchy.create(&place.name, &Limits::default()).unwrap();
    let mut child = sleeper();
    group.add(pid_of(&child)).unwrap();
    assert_eq!(group.procs().unwrap(), [pid_of(&child)]);
    assert!(group.populated().unwrap());
    assert!(group.kill().unwrap());
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

#[test]
fn a_child_joins_through_the_inherited_file() {
    let place = Place::new();
    let group = place.hierarchy.create(&place.name, &Limits::default()).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "echo 0; exec sleep 600"])
        .stdout(Stdio::from(group.procs_fd().unwrap()))
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while group.procs().unwrap() != [pid_of(&child)] {
        assert!(Instant::now() < deadline, "the child did not join");
        std::thread::sleep(Duration::from_millis(2));
    }
    group.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn limits_are_in_force_where_the_controllers_are() {
    let place = Place::new();
    let limits = Limits { memory_max: Some(64 << 20), pids_max: Some(7), cpu_max: Some((50_000, 100_000)) };
    let group = place.hierarchy.create(&place.name, &limits).unwrap();
    let applied = group.applied();
    for (set, file, value) in [
        (applied.memory_max, "memory.max", "67108864"),
        (applied.pids_max, "pids.max", "7"),
        (applied.cpu_max, "cpu.max", "50000 100000"),
    ] {
        let path = group.path().join(file);
        assert_eq!(set, path.exists(), "{file}");
        if set {
            assert_eq!(std::fs::read_to_string(path).unwrap().trim(), value, "{file}");
        }
    }
}

#[test]
fn limits_are_written_into_the_files_that_exist() {
    // A plain directory in place of the file system: which controllers a host has must not decide what is tested.
    let dir = tempfile::tempdir().unwrap();
    let group = dir.path().join("a/b");
    std::fs::create_dir_all(&group).unwrap();
    std::fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu memory\n").unwrap();
    std::fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
    std::fs::write(group.join("memory.max"), "").unwrap();
    std::fs::write(group.join("cpu.max"), "").unwrap();

    let limits = Limits { memory_max: Some(4096), pids_max: Some(7), cpu_max: Some((1, 2)) };
    let made = cgroup::Hierarchy::at(dir.path()).create(Path::new("a/b"), &limits).unwrap();
    let applied = made.applied();
    assert!(applied.memory_max && applied.cpu_max && !applied.pids_max);
    assert_eq!(std::fs::read_to_string(group.join("memory.max")).unwrap(), "4096");
    assert_eq!(std::fs::read_to_string(group.join("cpu.max")).unwrap(), "1 2");
    let switched = std::fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
    // Each is written at the start of the file, the processor's last.
    assert_eq!(switched, "+cpuory");
}

#[test]
fn a_limit_that_is_refused_is_an_error_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("a/memory.max")).unwrap();
    let limits = Limits { memory_max: Some(4096), ..Limits::default() };
    let error = cgroup::Hierarchy::at(dir.path()).create(Path::new("a"), &limits).unwrap_err();
    assert!(error.to_string().contains("memory.max"), "{error}");
    assert!(dir.path().join("a").exists(), "it was there before and stays");
}

#[test]
fn a_list_of_processes_that_cannot_be_read_is_never_empty() {
    let place = Place::new();
    let gone = place.hierarchy.open(&place.name).unwrap();
    assert_eq!(gone.procs().unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(gone.populated().is_err());
    assert!(!gone.kill().unwrap(), "nothing to kill, and said so");

    // The kernel refuses to list the processes of a threaded group.
    let group = place.hierarchy.create(&place.name.join("threaded"), &Limits::default()).unwrap();
    std::fs::write(group.path().join("cgroup.type"), "threaded").unwrap();
    assert_eq!(group.procs().unwrap_err().kind(), io::ErrorKind::Unsupported);

    // A process of a foreign pid namespace reads as 0.
    let dir = tempfile::tempdir().unwrap();
    let group = cgroup::Hierarchy::at(dir.path()).create(Path::new("g"), &Limits::default()).unwrap();
    for (text, wanted) in
        [("0\n", None), ("12\nx\n", None), ("-4\n", None), ("99999999999\n", None), ("7\n", Some(7))]
    {
        std::fs::write(group.path().join("cgroup.procs"), text).unwrap();
        let wanted = wanted.map(|pid| vec![Pid::from_raw(pid).unwrap()]);
        assert_eq!(group.procs().ok(), wanted, "{text:?}");
    }
}
