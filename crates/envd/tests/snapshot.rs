//! What the host asks for around a snapshot.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::Write as _;
use std::process::Command;

use common::{Daemon, eventually};
use serde_json::json;

#[test]
fn the_routes_for_the_host_need_the_token_once_there_is_one() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for path in ["/snapshot/prepare", "/sync"] {
        let answer = client.http("POST", path, "");
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}");
        assert_eq!(client.http("GET", path, "").status, 405, "{path}");
    }
    assert_eq!(client.http("POST", "/init", r#"{"accessToken":"secret"}"#).status, 204);
    for path in ["/snapshot/prepare", "/sync"] {
        assert_eq!(client.http("POST", path, "").status, 401, "{path}");
        assert_eq!(client.clone().token("other").http("POST", path, "").status, 401, "{path}");
        assert_eq!(client.clone().token("secret").http("POST", path, "").status, 204, "{path}");
    }
}

#[test]
fn nothing_is_frozen_outside_a_guest_and_nobody_but_the_host_may_ask() {
    let daemon = Daemon::start();
    for path in ["/fsfreeze", "/fsthaw"] {
        assert_eq!(daemon.client().http("POST", path, "").status, 503, "{path}");
        assert_eq!(daemon.client().http("GET", path, "").status, 405, "{path}");
    }
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "").unwrap();
    // It has no host, so nobody is it.
    let Some(daemon) = guest(&hosts) else { return };
    let client = daemon.client();
    for path in ["/fsfreeze", "/fsthaw"] {
        assert_eq!(client.http("POST", path, "").status, 403, "{path}");
    }
    assert_eq!(client.http("POST", "/init", r#"{"accessToken":"secret"}"#).status, 204);
    assert_eq!(client.http("POST", "/fsfreeze", "").status, 401);
}

#[test]
fn many_flushes_at_once_all_end() {
    let daemon = Daemon::start();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 1 << 20]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| assert_eq!(daemon.client().http("POST", "/sync", "").status, 204));
        }
    });
    // Whatever ran, the daemon has not kept a thread for each.
    let threads = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().count();
    assert!(threads < 6, "{threads}");
}

#[test]
fn processes_and_requests_go_on_through_a_preparation() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let go = go.to_str().unwrap();
    let mut events =
        client.shell(&format!("echo before; while [ ! -e {go} ]; do sleep 0.01; done; echo after"));
    events.until("before");
    assert_eq!(client.http("POST", "/snapshot/prepare", "").status, 204);
    assert_eq!(client.run(&format!("touch {go}; echo meanwhile")).out(), "meanwhile\n");
    assert_eq!(events.finish().out(), "after\n");
}

#[test]
fn the_daemon_puts_its_memory_together_and_goes_on() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for _ in 0..2 {
        let answer = client.http("POST", "/collapse", "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let report = answer.json();
        let number = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"));
        assert_eq!(number("chunks"), number("collapsed") + number("alreadyHuge") + number("skipped"));
        assert!(number("regions") > 0 && number("elapsedMs") < 10_000, "{report}");
        assert_eq!(client.run("echo on").out(), "on\n");
    }
    let daemon = Daemon::with_args(&["-host", "127.0.0.2:9"]);
    assert_eq!(daemon.client().http("POST", "/collapse", "").status, 403);
}

#[test]
fn nothing_of_this_machine_changes_outside_a_guest() {
    let daemon = Daemon::start();
    let state = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        (name, std::fs::read_to_string("/etc/hosts").unwrap_or_default())
    };
    let before = state();
    let body = json!({
        "lifecycleID": "a", "hostname": "another", "entropy": "00", "timestamp": "2001-02-03T04:05:06Z",
    });
    assert_eq!(daemon.client().http("POST", "/init", &body.to_string()).status, 204);
    assert_eq!(state(), before);
    assert!(jiff::Timestamp::now().as_second() > 1_700_000_000);
    for bad in [json!({"hostname": "a b"}), json!({"entropy": "0"}), json!({"entropy": "00".repeat(1025)})] {
        assert_eq!(daemon.client().http("POST", "/init", &bad.to_string()).status, 400, "{bad}");
    }
}

/// A daemon that takes this machine for its guest, with a name and an `/etc/hosts` that nobody else sees. None where that
/// is not allowed. The clock has no such thing, so requests to this daemon have no time in them.
fn guest(hosts: &std::path::Path) -> Option<Daemon> {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--uts", "--mount", "--propagation", "private", "--"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces here");
        return None;
    }
    let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
    let mut command = unshare();
    command.args(["sh", "-c", script]).arg(hosts).arg(env!("CARGO_BIN_EXE_envd"));
    Some(Daemon::with_command(&mut command, &["-guest"]))
}

#[test]
fn a_resumed_guest_gets_a_name_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    std::fs::write(&hosts, "127.0.0.1 localhost\n127.0.1.1 old # coldframe\n10.0.0.1 db\n").unwrap();
    let Some(daemon) = guest(&hosts) else { return };
    let client = daemon.client();
    let seed = "5a".repeat(32);
    let init = |lifecycle: &str, name: &str| {
        let body = json!({"lifecycleID": lifecycle, "hostname": name, "entropy": seed});
        assert_eq!(client.http("POST", "/init", &body.to_string()).status, 204);
    };
    let name = || client.run("cat /proc/sys/kernel/hostname").out().trim().to_owned();
    let expect = |expected: &str| {
        assert_eq!(name(), expected);
        let expected = format!("127.0.0.1 localhost\n127.0.1.1 {expected} # coldframe\n10.0.0.1 db\n");
        assert_eq!(std::fs::read_to_string(&hosts).unwrap(), expected);
    };
    init("a", "first");
    expect("first");
    // The same life: nothing to put right.
    init("a", "second");
    expect("first");
    init("b", "third-and-longer");
    expect("third-and-longer");
}

#[test]
fn a_guest_whose_hosts_file_cannot_be_written_is_initialised_nevertheless() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    rustix::fs::mkfifoat(rustix::fs::CWD, &hosts, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let Some(daemon) = guest(&hosts) else { return };
    let body = json!({"lifecycleID": "a", "hostname": "first"});
    assert_eq!(daemon.client().http("POST", "/init", &body.to_string()).status, 204);
    eventually("the name", || daemon.client().run("cat /proc/sys/kernel/hostname").out() == "first\n");
}
