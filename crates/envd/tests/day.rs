//! A day of work in less than a minute: what the daemon holds afterwards is what it held after the first hours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::Path;

use common::{Client, Daemon, eventually};
use serde_json::{Value, json};

const HOURS: usize = 24;
const MINUTES: usize = 60;
/// Until then buffers, threads and tables may reach the size that they keep.
const SETTLED: usize = 4;
/// Of what it held then, and beside it: the ends of processes are told for half a minute, which is a whole day here.
const MORE: f64 = 1.1;
const SLACK_KIB: f64 = 512.0;

#[test]
fn a_day_leaves_nothing_behind() {
    let daemon = Daemon::start();
    let directory = tempfile::tempdir().unwrap();
    let held: Vec<Held> = (0..HOURS)
        .map(|hour| {
            (0..MINUTES).for_each(|minute| work(&daemon.client(), directory.path(), minute));
            snapshot(&daemon.client(), hour);
            held(&daemon)
        })
        .collect();
    println!("{held:?}");
    let (first, rest) = held.split_at(SETTLED);
    let most = |of: &[Held]| of.iter().map(|held| held.resident_kib).fold(0.0, f64::max);
    assert!(most(rest) <= most(first) * MORE + SLACK_KIB, "{held:?}");
    // The connection of the last request may be closed a little later than it is answered.
    let fewest = first.iter().map(|held| held.files).min().unwrap();
    eventually("no descriptor is left", || files(&daemon) <= fewest);
}

/// What somebody does in a minute.
fn work(client: &Client, directory: &Path, minute: usize) {
    let file = directory.join(format!("file-{}", minute % 7));
    let watcher = filesystem(client, "CreateWatcher", &json!({"path": directory}));
    let path = format!("/files?path={}", file.display());
    let size = if minute == 0 { 8 << 20 } else { 16 << 10 };
    assert_eq!(client.raw(&path, "application/octet-stream", &vec![b'x'; size]).status, 200);
    let told = filesystem(client, "GetWatcherEvents", &watcher);
    assert!(told["events"].as_array().is_some_and(|events| !events.is_empty()), "{told}");
    filesystem(client, "RemoveWatcher", &watcher);
    assert_eq!(client.run("echo said; echo more >&2").out(), "said\n");
    match minute % 20 {
        0 => assert_eq!(client.run("head -c 2000000 /dev/zero").stdout.len(), 2_000_000),
        // A client that goes away in the middle.
        1 => client.shell("echo begun; exec sleep 0.05").disconnect(),
        2 => terminal(client),
        3 => assert_eq!(client.http("GET", &path, "").body.len(), 16 << 10),
        _ => {}
    }
}

fn terminal(client: &Client) {
    let mut wanted = common::shell("echo $((6 * 7))");
    wanted["pty"] = json!({"size": {"cols": 80, "rows": 24}});
    assert!(String::from_utf8_lossy(&client.start(&wanted).finish().pty).contains("42"));
}

fn filesystem(client: &Client, method: &str, message: &Value) -> Value {
    let answer = client.http("POST", &format!("/filesystem.Filesystem/{method}"), &message.to_string());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// What the host asks for before and after it.
fn snapshot(client: &Client, hour: usize) {
    assert_eq!(client.http("POST", "/snapshot/prepare", "").status, 204);
    let resumed = json!({"lifecycleID": format!("hour {hour}"), "envVars": {"HOUR": hour.to_string()}});
    assert_eq!(client.http("POST", "/init", &resumed.to_string()).status, 204);
}

/// What the daemon holds.
#[derive(Debug)]
struct Held {
    resident_kib: f64,
    files: usize,
}

fn held(daemon: &Daemon) -> Held {
    let client = daemon.client();
    eventually("all processes have ended", || {
        client.call("List", &json!({})).unwrap()["processes"].is_null()
    });
    assert_eq!(client.http("POST", "/snapshot/prepare", "").status, 204);
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Held { resident_kib: resident.trim().trim_end_matches(" kB").parse().unwrap(), files: files(daemon) }
}

fn files(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}
