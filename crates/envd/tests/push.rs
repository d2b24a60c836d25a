//! What the daemon tells the host of its own accord.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{Daemon, PATIENCE};
use model::{LogEntry, LogSource};

/// A host that notes what it is told.
fn host() -> (String, mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let request = request(&mut stream);
            answer(&mut stream);
            if sender.send(request).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

/// Reads a request: its path and its body.
fn request(stream: &mut TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0);
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head.split(' ').nth(1).unwrap().to_owned(), String::from_utf8(body).unwrap())
}

fn answer(stream: &mut TcpStream) {
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
}

/// A host whose connections the test handles itself, once the daemon has said that it is ready.
fn silent_host() -> (Daemon, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let daemon = Daemon::with_args(&["-host", &listener.local_addr().unwrap().to_string()]);
    let mut ready = listener.accept().unwrap().0;
    assert_eq!(request(&mut ready).0, "/v1/ready");
    answer(&mut ready);
    (daemon, listener)
}

/// Takes the next connection and what it says.
fn next(listener: &TcpListener) -> (TcpStream, String) {
    let mut stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (path, body) = request(&mut stream);
    assert_eq!(path, "/v1/logs");
    (stream, body)
}

/// Whether somebody connects within this time.
fn connects(listener: &TcpListener, within: Duration) -> bool {
    let mut fds = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec::try_from(within).unwrap();
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0
}

fn messages(body: &str) -> Vec<String> {
    let entries = body.lines().map(|line| serde_json::from_str::<LogEntry>(line).unwrap());
    entries.filter(|entry| entry.source == LogSource::Process).map(|entry| entry.message).collect()
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

#[test]
fn a_host_that_falls_silent_or_is_gone_costs_no_lines() {
    let (daemon, listener) = silent_host();
    daemon.client().run("echo one");
    let (silent, body) = next(&listener);
    let begin = Instant::now();
    assert_eq!(messages(&body), ["one"]);
    daemon.client().run("echo two");
    let (gone, body) = next(&listener);
    // The limit of an exchange, and then at once.
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert_eq!(messages(&body), ["one"]);
    // With bytes unread in it, closing a socket resets the connection.
    drop(gone);
    let (mut stream, body) = next(&listener);
    assert_eq!(messages(&body), ["one"]);
    answer(&mut stream);
    let (mut stream, body) = next(&listener);
    assert_eq!(messages(&body), ["two"]);
    answer(&mut stream);
    drop(silent);
}

#[test]
fn before_a_snapshot_sending_stops_and_after_it_goes_on() {
    let (daemon, listener) = silent_host();
    let client = daemon.client();
    let prepare = || {
        let begin = Instant::now();
        assert_eq!(client.http("POST", "/snapshot/prepare", "").status, 204);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    };
    let init = |lifecycle: &str| {
        let body = format!(r#"{{"lifecycleID":"{lifecycle}"}}"#);
        assert_eq!(client.http("POST", "/init", &body).status, 204);
    };
    init("first");
    answer(&mut next(&listener).0);
    prepare();
    prepare();
    client.run("echo one");
    assert!(!connects(&listener, Duration::from_millis(500)));
    assert_eq!(client.http("GET", "/health", "").status, 204);
    let (stalled, body) = next(&listener);
    assert_eq!(messages(&body), ["one"]);

    // One that is under way is not waited for long, and comes again after the resume.
    prepare();
    client.run("echo two");
    assert!(!connects(&listener, Duration::from_millis(500)));
    init("second");
    let (mut stream, body) = next(&listener);
    assert_eq!(messages(&body), ["one"]);
    answer(&mut stream);
    drop(stalled);
    let (stalled, body) = next(&listener);
    assert_eq!(messages(&body), ["two"]);

    // Nor is one that a snapshot holds without having been told.
    let begin = Instant::now();
    init("third");
    let (mut stream, body) = next(&listener);
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    assert_eq!(messages(&body), ["two"]);
    answer(&mut stream);
    drop(stalled);
}

#[test]
fn an_exchange_under_way_is_finished_before_a_snapshot() {
    let (daemon, listener) = silent_host();
    daemon.client().run("echo one");
    let (mut stream, body) = next(&listener);
    assert_eq!(messages(&body), ["one"]);
    let client = daemon.client();
    let prepare = std::thread::spawn(move || client.http("POST", "/snapshot/prepare", "").status);
    std::thread::sleep(Duration::from_millis(100));
    assert!(!prepare.is_finished());
    answer(&mut stream);
    assert_eq!(prepare.join().unwrap(), 204);
    daemon.client().run("echo two");
    assert_eq!(daemon.client().http("POST", "/init", "{}").status, 204);
    let (_stream, body) = next(&listener);
    assert_eq!(messages(&body), ["two"]);
}
