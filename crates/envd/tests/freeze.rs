//! `POST /freeze` and `POST /unfreeze`, with groups of the real kernel where this machine has a hierarchy of version 2.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Client, Daemon, Events, eventually};
use serde_json::{Value, json};

/// A daemon with groups of its own.
struct Frozen {
    daemon: Daemon,
    root: PathBuf,
}

impl Frozen {
    /// None where there is no hierarchy, or it cannot be changed.
    fn start(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next() == Some("cgroup2")).then_some(path)
        });
        let Some(mount) = mount else {
            eprintln!("skipped: there is no cgroup hierarchy of version 2");
            return None;
        };
        let root = Path::new(mount).join(format!("envd-{name}-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&root) {
            eprintln!("skipped: cannot make {}: {error}", root.display());
            return None;
        }
        let daemon = Daemon::with_args(&["-cgroup-root", root.to_str().unwrap()]);
        Some(Self { daemon, root })
    }

    fn client(&self) -> Client {
        self.daemon.client()
    }

    /// A process that counts, and how far it is.
    fn counter(&self) -> (Events, impl Fn() -> usize) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let events = self.client().shell(&format!("while true; do echo >> {path}; sleep 0.005; done"));
        (events, move || fs::read(file.path()).unwrap().len())
    }

    fn is_frozen(&self) -> bool {
        fs::read_to_string(self.root.join("user/cgroup.events")).unwrap().contains("frozen 1")
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for name in ["user", "ptys"] {
            let group = self.root.join(name);
            let _ = fs::write(group.join("cgroup.freeze"), "0");
            let _ = fs::write(group.join("cgroup.kill"), "1");
            for _ in 0..500 {
                if fs::remove_dir(&group).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = fs::remove_dir(&self.root);
    }
}

fn freeze(client: &Client, query: &str) -> Value {
    let answer = client.http("POST", &format!("/freeze?{query}"), "");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn goes_on(count: impl Fn() -> usize) {
    let before = count();
    eventually("the process goes on", || count() > before + 1);
}

#[test]
fn processes_stand_still_until_they_are_thawed() {
    let Some(frozen) = Frozen::start("still") else { return };
    let client = frozen.client();
    let (_events, count) = frozen.counter();
    goes_on(&count);
    let report = freeze(&client, "maxWaitMs=5000");
    assert_eq!(report["mode"], "legacy");
    assert_eq!((&report["requested"], &report["frozen"]), (&json!(2), &json!(2)), "{report}");
    assert_eq!((&report["notFrozen"], &report["failed"]), (&json!(0), &json!(0)), "{report}");
    let before = count();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(count(), before);
    // Again is fine.
    assert_eq!(freeze(&client, "maxWaitMs=5000&mode=hierarchy&maxCgroups=7")["mode"], "legacy");
    assert_eq!(client.http("POST", "/unfreeze", "").status, 204);
    goes_on(&count);
    assert_eq!(client.http("POST", "/unfreeze", "").status, 204);
    // Who does not wait hears nothing.
    for query in ["", "?maxWaitMs=0", "?maxWaitMs=-5", "?mode=legacy"] {
        let answer = client.http("POST", &format!("/freeze{query}"), "");
        assert_eq!((answer.status, answer.body.len()), (204, 0), "{query}");
        eventually("frozen", || frozen.is_frozen());
        assert_eq!(client.http("POST", "/unfreeze", "").status, 204);
    }
    for query in ["maxWaitMs=soon", "mode=deep", "maxCgroups=x"] {
        assert_eq!(client.http("POST", &format!("/freeze?{query}"), "").status, 400, "{query}");
    }
    assert!(!frozen.is_frozen());
    goes_on(&count);
}

#[test]
fn an_accepted_init_thaws_and_a_refused_one_does_not() {
    let Some(frozen) = Frozen::start("init") else { return };
    let client = frozen.client();
    let (_events, count) = frozen.counter();
    let init = |body: Value| client.http("POST", "/init", &body.to_string()).status;
    let new = json!({"accessToken": "secret", "timestamp": "2026-01-02T03:04:05Z"});
    let old = json!({"accessToken": "secret", "timestamp": "2026-01-02T03:04:04Z"});
    assert_eq!(init(new), 204);
    let client = client.clone().token("secret");
    freeze(&client, "maxWaitMs=5000");
    for wrong in [json!({}), json!({"accessToken": "other"}), json!({"accessToken": ""})] {
        assert!(init(wrong) >= 400);
    }
    assert!(frozen.is_frozen());
    // One that was overtaken changes nothing but this.
    assert_eq!(init(old), 204);
    assert!(!frozen.is_frozen());
    goes_on(&count);
}

#[test]
fn nothing_waits_for_who_stands_still() {
    let Some(frozen) = Frozen::start("waits") else { return };
    let client = frozen.client();
    let reader = client.start(&json!({"process": {"cmd": "sh", "args": ["-c", "cat > /dev/null"]}}));
    let (counter, count) = frozen.counter();
    goes_on(&count);
    freeze(&client, "maxWaitMs=5000");
    let begin = Instant::now();
    // More than a pipe holds: these wait, each for as long as its client does.
    let data = STANDARD.encode(vec![b'x'; 1 << 20]);
    let input = json!({"process": {"pid": reader.pid}, "input": {"stdin": data}});
    let slow = client.clone().header("connect-timeout-ms", "300");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(slow.call("SendInput", &input).unwrap_err(), "deadline_exceeded"));
        }
    });
    assert_eq!(client.http("GET", "/health", "").status, 204);
    let processes = client.call("List", &json!({})).unwrap();
    assert_eq!(processes["processes"].as_array().unwrap().len(), 2);
    // One that is to be started waits, too, and does not take a thread for that.
    let threads = fs::read_dir(format!("/proc/{}/task", frozen.daemon.pid())).unwrap().count();
    let started = std::thread::spawn({
        let client = client.clone();
        move || client.run("echo started").out().to_owned()
    });
    // A signal is delivered when it is thawed.
    let kill = json!({"process": {"pid": counter.pid}, "signal": "SIGNAL_SIGKILL"});
    client.call("SendSignal", &kill).unwrap();
    assert!(fs::read_dir(format!("/proc/{}/task", frozen.daemon.pid())).unwrap().count() <= threads + 1);
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(client.http("POST", "/init", "{}").status, 204);
    assert_eq!(started.join().unwrap(), "started\n");
    let end = counter.finish();
    assert_eq!(end.end.unwrap()["status"], "signal: killed");
    let end = json!({"process": {"pid": reader.pid}});
    client.call("CloseStdin", &end).unwrap();
    assert_eq!(reader.finish().code(), 0);
}

#[test]
fn a_daemon_that_starts_finds_nothing_frozen() {
    let Some(frozen) = Frozen::start("restart") else { return };
    let (_events, count) = frozen.counter();
    goes_on(&count);
    freeze(&frozen.client(), "maxWaitMs=5000");
    let _next = Daemon::with_args(&["-cgroup-root", frozen.root.to_str().unwrap()]);
    goes_on(&count);
}

#[test]
fn without_groups_there_is_nothing_to_see() {
    let daemon = Daemon::start();
    let report = freeze(&daemon.client(), "maxWaitMs=50");
    assert_eq!((&report["unobservable"], &report["frozen"]), (&json!(2), &json!(0)), "{report}");
    assert_eq!(daemon.client().http("POST", "/unfreeze", "").status, 204);
}

#[test]
fn only_the_host_may_ask() {
    // The client is not the host, whose address the daemon knows here.
    let daemon = Daemon::with_args(&["-host", "127.0.0.2:9"]);
    for path in ["/freeze", "/unfreeze"] {
        assert_eq!(daemon.client().http("POST", path, "").status, 403, "{path}");
        assert_eq!(daemon.client().http("GET", path, "").status, 405, "{path}");
    }
    let daemon = Daemon::with_args(&["-host", "127.0.0.1:9"]);
    assert_eq!(daemon.client().http("POST", "/freeze", "").status, 204);
    assert_eq!(daemon.client().http("POST", "/init", r#"{"accessToken":"secret"}"#).status, 204);
    assert_eq!(daemon.client().http("POST", "/freeze", "").status, 401);
}
