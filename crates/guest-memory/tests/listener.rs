//! The socket for monitors that connect by a path.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::userfaultfd;
use guest_memory::Listener;
use guest_memory::handshake::{HandshakeError, receive};

const SOON: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(30);

#[test]
fn is_for_its_owner_only_and_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory.sock");
    let listener = Listener::bind(&path, 1234, 4321).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o600);
    assert_eq!((metadata.uid(), metadata.gid()), (1234, 4321));
    assert!(Listener::bind(&path, 0, 0).is_err(), "somebody is there");
    assert!(path.exists());

    assert!(matches!(listener.accept(Instant::now() + SOON), Err(HandshakeError::TimedOut)));
    drop(UnixStream::connect(&path).unwrap());
    let gone = listener.accept(Instant::now() + LONG).unwrap();
    assert!(matches!(receive(gone, Instant::now() + LONG), Err(HandshakeError::Closed)));

    // Who says nothing does not hold anybody up for ever.
    let silent = UnixStream::connect(&path).unwrap();
    let accepted = listener.accept(Instant::now() + LONG).unwrap();
    assert!(matches!(receive(accepted, Instant::now() + SOON), Err(HandshakeError::TimedOut)));
    drop(silent);

    let monitor = UnixStream::connect(&path).unwrap();
    userfaultfd::send(
        &monitor,
        userfaultfd::json(1 << 23, 8192, 4096).as_bytes(),
        &[userfaultfd::open().as_fd()],
    );
    let accepted = listener.accept(Instant::now() + LONG).unwrap();
    let handshake = receive(accepted, Instant::now() + LONG).unwrap();
    assert_eq!(handshake.pid, std::process::id());
    assert!(handshake.memfd.is_none());

    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_path_that_is_too_long_is_an_error() {
    let path = std::env::temp_dir().join("x".repeat(120));
    assert!(Listener::bind(&path, 0, 0).is_err());
}
