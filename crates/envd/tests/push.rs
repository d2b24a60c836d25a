//! What the daemon tells the host of its own accord.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use common::{Daemon, PATIENCE};
use model::{LogEntry, LogSource};

/// A host that notes what it is told.
fn host() -> (String, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
            let path = head.split(' ').nth(1).unwrap().to_owned();
            if sender.send((path, String::from_utf8(body).unwrap())).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

#[test]
fn the_host_hears_that_the_daemon_is_ready_and_what_processes_print() {
    let (address, host) = host();
    let daemon = Daemon::with_args(&["-host", &address]);
    let ready = host.recv_timeout(PATIENCE).unwrap();
    assert_eq!(ready, ("/v1/ready".into(), r#"{"version":"0.6.13"}"#.into()));

    let events = daemon.client().shell("echo one; echo two >&2; printf three");
    let pid = events.pid.to_string();
    events.finish();
    let mut entries: Vec<LogEntry> = Vec::new();
    while entries.len() < 3 {
        let (path, body) = host.recv_timeout(PATIENCE).unwrap();
        assert_eq!(path, "/v1/logs");
        entries.extend(body.lines().map(|line| serde_json::from_str::<LogEntry>(line).unwrap()));
    }
    entries.sort_by(|one, other| one.message.cmp(&other.message));
    let seen: Vec<_> =
        entries.iter().map(|entry| (entry.message.as_str(), entry.fields["stream"].as_str())).collect();
    assert_eq!(seen, [("one", "stdout"), ("three", "stdout"), ("two", "stderr")]);
    for entry in entries {
        assert_eq!((entry.source, entry.fields["pid"].as_str()), (LogSource::Process, pid.as_str()));
        assert!(entry.fields["cmd"].starts_with("/bin/bash -c echo one"), "{entry:?}");
    }
}

#[test]
fn a_host_that_is_late_is_told_nevertheless() {
    // A port where nobody listens yet.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let daemon = Daemon::with_args(&["-host", &address]);
    assert_eq!(daemon.client().http("GET", "/health", "").status, 204);
    let listener = TcpListener::bind(&address).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut start = [0; 20];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"POST /v1/ready HTTP/");
}

#[test]
fn a_flood_is_thinned_out_and_counted_and_stops_nobody() {
    let (address, host) = host();
    let daemon = Daemon::with_args(&["-host", &address]);
    let outcome = daemon.client().run("yes 0123456789 | head -c 20000000");
    assert_eq!(outcome.stdout.len(), 20_000_000);
    let mut lines = 0;
    loop {
        let (path, body) = host.recv_timeout(PATIENCE).unwrap();
        if path == "/v1/logs" {
            lines += body.lines().count();
            assert!(body.len() < 600 << 10, "{}", body.len());
            if body.contains("log lines were dropped") {
                break;
            }
        }
    }
    assert!(lines < 1_800_000);
}
