//! Connections to ports that only loopback reaches, as the host asks for them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use common::{Daemon, PATIENCE, eventually};
use serde_json::json;

const HOST: &str = "127.0.0.1:9";

/// Asks for a connection: the head of the answer, and the connection behind it.
fn ask(daemon: &Daemon, request: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    (String::from_utf8(head).unwrap(), stream)
}

fn connect(daemon: &Daemon, port: u16) -> TcpStream {
    let (head, stream) =
        ask(daemon, &format!("CONNECT localhost:{port} HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n"));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    stream
}

/// Status and text of a refusal.
fn refusal(daemon: &Daemon, target: &str) -> (u16, String) {
    let (head, mut stream) = ask(daemon, &format!("CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n"));
    // It ends by itself: nobody goes on with such a connection.
    let mut body = String::new();
    stream.read_to_string(&mut body).unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

/// Answers each connection with what it got, when the client is done sending.
fn echo(address: &str) -> u16 {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).unwrap();
                // Clients may be gone by now.
                let _ = stream.write_all(&all);
            });
        }
    });
    port
}

fn talk(mut stream: TcpStream, message: &[u8]) -> Vec<u8> {
    let mut sender = stream.try_clone().unwrap();
    let mut answer = Vec::new();
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(message).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        stream.read_to_end(&mut answer).unwrap();
    });
    answer
}

fn open_files(daemon: &Daemon) -> usize {
    fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[test]
fn whoever_listens_is_reached_wherever_he_does() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    for address in [
        "127.0.0.1:0",
        "127.0.0.2:0",
        "127.0.1.1:0",
        "[::1]:0",
        "0.0.0.0:0",
        "[::]:0",
        "[::ffff:127.0.0.1]:0",
    ] {
        let port = echo(address);
        assert_eq!(talk(connect(&daemon, port), b"hello"), b"hello", "{address}");
    }
}

#[test]
fn a_port_is_reached_as_soon_as_it_is_bound_and_not_after_it_is_closed() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    drop(first);
    for address in ["127.0.0.1", "0.0.0.0", "127.0.0.2", "::1", "127.0.0.1"] {
        assert_eq!(refusal(&daemon, &format!("localhost:{port}")).0, 502);
        let listener = TcpListener::bind((address, port)).unwrap();
        let mut stream = connect(&daemon, port);
        let (mut served, _) = listener.accept().unwrap();
        served.write_all(b"!").unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        // The program's end first, so that the port can be bound again at once.
        drop(stream);
        assert_eq!(served.read(&mut byte).unwrap(), 0);
    }
}

#[test]
fn each_side_may_finish_first() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = connect(&daemon, listener.local_addr().unwrap().port());
    let (mut served, _) = listener.accept().unwrap();
    served.write_all(b"all that I say").unwrap();
    served.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "all that I say");
    stream.write_all(b"but I go on").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    heard.clear();
    served.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "but I go on");
}

#[test]
fn what_comes_with_the_request_and_a_mebibyte_both_ways_arrive() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    let port = echo("127.0.0.1:0");
    let (head, stream) = ask(&daemon, &format!("CONNECT localhost:{port} HTTP/1.1\r\nhost: x\r\n\r\nfirst "));
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let message: Vec<u8> = (0..1_u32 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let answer = talk(stream, &message);
    assert_eq!(answer.strip_prefix(b"first ").unwrap(), message);
}

#[test]
fn a_program_that_dies_takes_the_connection_with_it() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = connect(&daemon, listener.local_addr().unwrap().port());
    let (mut served, _) = listener.accept().unwrap();
    stream.write_all(b"unread").unwrap();
    eventually("the message arrives", || served.peek(&mut [0]).unwrap() > 0);
    // With something unread this is a reset.
    let _ = served.write_all(b"bye");
    drop(served);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(b"bye".starts_with(&rest), "{rest:?}");
}

#[test]
fn many_at_once_leave_nothing_behind() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    let port = echo("127.0.0.1:0");
    // One more comes and goes: it tries to tell the host that it is ready.
    let few = open_files(&daemon) + 2;
    for round in 0..2 {
        let streams: Vec<TcpStream> = (0..64).map(|_| connect(&daemon, port)).collect();
        assert!(open_files(&daemon) >= 2 * streams.len());
        thread::scope(|scope| {
            for (number, stream) in streams.into_iter().enumerate() {
                scope.spawn(move || {
                    let message = format!("{round} {number} ").repeat(1000);
                    assert_eq!(talk(stream, message.as_bytes()), message.as_bytes());
                });
            }
        });
        eventually("every connection is closed", || open_files(&daemon) <= few);
    }
    // And those that nobody ends well.
    drop((0..64).map(|_| connect(&daemon, port)).collect::<Vec<_>>());
    eventually("every connection is closed", || open_files(&daemon) <= few);
}

#[test]
fn a_closed_port_is_told_at_once() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    let expected = json!({"code": 502, "message": "nothing listens on port 9"}).to_string();
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(refusal(&daemon, "localhost:9"), (502, expected.clone()));
    }
    println!("refused in {:?}", begun.elapsed() / 100);
}

#[test]
fn nothing_but_ports_of_this_machine_can_be_asked_for() {
    let daemon = Daemon::with_args(&["-host", HOST]);
    for target in
        ["10.0.0.1:22", "127.0.0.1:22", "localhost:0", "localhost", "example.com:80", "user@localhost:80"]
    {
        assert_eq!(refusal(&daemon, target).0, 400, "{target}");
    }
}

#[test]
fn only_the_host_may_ask_and_needs_no_token() {
    let port = echo("127.0.0.1:0");
    for args in [["-host", "127.0.0.2:9"].as_slice(), &[]] {
        let daemon = Daemon::with_args(args);
        for token in ["", r#"{"accessToken":"secret"}"#] {
            if !token.is_empty() {
                assert_eq!(daemon.client().http("POST", "/init", token).status, 204);
            }
            assert_eq!(refusal(&daemon, &format!("localhost:{port}")).0, 403, "{args:?}");
        }
    }
    let daemon = Daemon::with_args(&["-host", HOST]);
    assert_eq!(daemon.client().http("POST", "/init", r#"{"accessToken":"secret"}"#).status, 204);
    assert_eq!(talk(connect(&daemon, port), b"hello"), b"hello");
    // The method as others write it is another one.
    assert_eq!(daemon.client().http("connect", "/", "").status, 401);
}
