//! The node's side of the control socket against a supervisor that does not behave.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use control::{Client, ClientError, Event, LogFilter, SOCKET_FILE};

/// Serves every connection with `answer`, once its request is complete.
fn supervisor(answer: impl Fn(UnixStream) + Send + Sync + 'static) -> (tempfile::TempDir, Client) {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join(SOCKET_FILE)).unwrap();
    let client = Client::new(dir.path());
    let answer = std::sync::Arc::new(answer);
    // Ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = std::sync::Arc::clone(&answer);
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    request.push(byte[0]);
                }
                answer(stream);
            });
        }
    });
    (dir, client)
}

fn says(text: impl Into<Vec<u8>>) -> (tempfile::TempDir, Client) {
    let text = text.into();
    supervisor(move |mut stream| {
        // The client may close first.
        let _ = stream.write_all(&text);
    })
}

fn with_length(body: &[u8], length: usize) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").into_bytes();
    text.extend_from_slice(body);
    text
}

fn endless(body: &[u8]) -> Vec<u8> {
    let mut text = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    text.extend_from_slice(body);
    text
}

#[tokio::test]
async fn nobody_listening_is_death_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(dir.path());
    assert!(matches!(client.status().await, Err(ClientError::Dead { .. })), "no socket");

    let socket = dir.path().join(SOCKET_FILE);
    drop(UnixListener::bind(&socket).unwrap());
    assert!(matches!(client.status().await, Err(ClientError::Dead { .. })), "a socket without a listener");

    std::fs::remove_file(&socket).unwrap();
    std::fs::write(&socket, "").unwrap();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Dead { .. }), "a file that is no socket: {error}");

    // The queue of a supervisor that accepts nothing fills up: it is hung, not dead.
    std::fs::remove_file(&socket).unwrap();
    let listener = rustix_listener(&socket);
    let waiting: Vec<_> = (0..8).map_while(|_| connect_now(&socket)).collect();
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::Broken(_)), "a full queue: {error}");
    drop((listener, waiting));
}

/// A listener with the shortest queue.
fn rustix_listener(path: &std::path::Path) -> std::os::fd::OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    listener
}

/// A connection that is queued without waiting; `None` when the queue is full.
fn connect_now(path: &std::path::Path) -> Option<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
    connect(&stream, &SocketAddrUnix::new(path).unwrap()).ok().map(|()| stream)
}

#[tokio::test]
async fn an_answer_that_is_cut_or_makes_no_sense_is_an_error() {
    for text in [
        Vec::new(),
        b"HTTP/1.1 200".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_vec(),
        with_length(b"{}", 2),
        with_length(b"[1,2", 100),
        with_length(&[0xff; 64], 64),
        endless(b"null"),
        vec![b'x'; 1 << 20],
    ] {
        let (_dir, client) = says(text.clone());
        let error = client.status().await.unwrap_err();
        assert!(
            matches!(error, ClientError::Broken(_)),
            "{:?}: {error}",
            String::from_utf8_lossy(&text[..text.len().min(80)])
        );
    }
}

#[tokio::test]
async fn a_refusal_comes_with_its_words_and_an_endless_one_is_cut() {
    let (_dir, client) = says("HTTP/1.1 409 Conflict\r\ncontent-length: 9\r\n\r\nnot today");
    let error = client.kill().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused { message, status, .. } if message == "not today" && *status == 409),
        "{error}"
    );

    let mut text = b"HTTP/1.1 500 Oh\r\n\r\n".to_vec();
    text.resize(4 << 20, b'!');
    let (_dir, client) = says(text);
    assert!(matches!(client.kill().await.unwrap_err(), ClientError::Broken(_)));
}

#[tokio::test]
async fn an_answer_without_end_is_not_kept() {
    let (_dir, client) = supervisor(|mut stream| {
        let chunk = vec![b' '; 1 << 20];
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&chunk).is_ok() {}
    });
    let error = client.logs(&LogFilter::default()).await.unwrap_err();
    assert!(matches!(error, ClientError::Broken(_)), "{error}");
}

#[tokio::test]
async fn a_supervisor_that_hangs_is_slow_not_dead() {
    let (_dir, client) = supervisor(|stream| {
        std::thread::sleep(Duration::from_secs(60));
        drop(stream);
    });
    let begun = Instant::now();
    let (status, events, kill) = tokio::join!(client.status(), client.events(), client.kill());
    for error in [status.unwrap_err(), events.err().unwrap(), kill.unwrap_err()] {
        assert!(matches!(error, ClientError::Slow { .. }), "{error}");
        assert!(error.to_string().contains("within 5s"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn events_end_with_their_supervisor_and_survive_being_cut_anywhere() {
    let line = b"{\"event\":\"ended\",\"why\":{\"reason\":\"killed\"},\"forced\":false}\n".to_vec();
    let (_dir, client) = {
        let line = line.clone();
        supervisor(move |mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            for byte in line.iter().chain(&line[..20]) {
                let _ = stream.write_all(&[*byte]);
                let _ = stream.flush();
            }
        })
    };
    let mut events = client.events().await.unwrap();
    let first = events.next().await.unwrap().unwrap();
    assert!(matches!(first, Event::Ended { why: model::EndReason::Killed, forced: false }));
    assert!(events.next().await.unwrap().is_none(), "half a line is not an event");

    let (_dir, client) = says(endless(b"what?\n"));
    assert!(matches!(client.events().await.unwrap().next().await, Err(ClientError::Broken(_))));
    let (_dir, client) = says(endless(&[b' '; 1 << 20]));
    assert!(matches!(client.events().await.unwrap().next().await, Err(ClientError::Broken(_))));
}

#[tokio::test]
async fn waiting_for_an_event_can_be_given_up_without_losing_one() {
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let receiver = std::sync::Mutex::new(receiver);
    let (_dir, client) = supervisor(move |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{\"event\":\"ended\",\"why\":{\"reason\":");
        let _ = receiver.lock().unwrap().recv();
        let _ = stream.write_all(b"\"timed_out\"},\"forced\":true}\n");
    });
    let mut events = client.events().await.unwrap();
    for _ in 0..3 {
        assert!(tokio::time::timeout(Duration::from_millis(20), events.next()).await.is_err());
    }
    sender.send(()).unwrap();
    let event = events.next().await.unwrap().unwrap();
    assert!(matches!(event, Event::Ended { why: model::EndReason::TimedOut, forced: true }));
}
