//! The preload library in a process that is not what it expects.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::model::{Image, PAGE, content};
use common::monitor::{Kind, LONG, Monitor, Preload};
use guest_memory::handshake::{self, HandshakeError};
use guest_memory::{GuestMemory, Options, PageServer};

const PAGES: u64 = 512;
const NOBODY: u32 = 65_534;

/// The second process of the tests below.
#[test]
fn peer() {
    common::peer::main();
}

fn memory() -> (OwnedFd, u64) {
    let memory = GuestMemory::create(PAGES * 4096).unwrap().into_fd();
    let inode = rustix::fs::fstat(&memory).unwrap().st_ino;
    (memory, inode)
}

#[test]
fn without_privileges_the_inherited_device_serves() {
    let device: OwnedFd = match std::fs::OpenOptions::new().read(true).write(true).open("/dev/userfaultfd") {
        Ok(device) => device.into(),
        Err(error) => return eprintln!("CANNOT RUN: /dev/userfaultfd: {error}"),
    };
    let (memory, inode) = memory();
    let (ours, socket) = handshake::pair().unwrap();
    let environment = format!("{}:{}:{inode}", socket.as_raw_fd(), device.as_raw_fd());
    let preload = Preload { environment, user: NOBODY, inherited: vec![device] };
    let mut monitor = Monitor::spawn_with(Kind::Preload, memory, PAGES * 4096, 4096, &socket, Some(&preload));
    drop(socket);
    let handshake = handshake::receive(ours, Instant::now() + LONG).unwrap();
    let options = Options { on_failure: Box::new(|error| panic!("{error}")), record: false };
    let server = PageServer::start(handshake, Arc::new(Image::new(PAGES)), options).unwrap();
    assert!(monitor.read(1) == content(1));
    // What a device does: faults of the kernel are served too.
    monitor.run("kernel 2 5");
    monitor.run("environment");
    monitor.kill();
    server.stop();
}

#[test]
fn does_nothing_when_it_is_not_asked_to() {
    for environment in [None, Some("3:-1:1")] {
        let (memory, _) = memory();
        let (ours, socket) = handshake::pair().unwrap();
        // The memory is another one than the library is told of.
        let preload = environment.map(|environment| Preload {
            environment: environment.to_owned(),
            user: 0,
            inherited: Vec::new(),
        });
        let mut monitor =
            Monitor::spawn_with(Kind::Preload, memory, PAGES * 4096, 4096, &socket, preload.as_ref());
        drop(socket);
        assert!(monitor.read(1) == [0; PAGE]);
        let silent = handshake::receive(ours, Instant::now() + Duration::from_millis(50));
        assert!(matches!(silent, Err(HandshakeError::TimedOut)), "{silent:?}");
        monitor.kill();
    }
}

#[test]
fn ends_a_process_whose_memory_it_cannot_hand_over() {
    let (memory, inode) = memory();
    let (ours, socket) = handshake::pair().unwrap();
    drop(ours);
    let number = socket.as_raw_fd();
    for environment in [
        "hello".to_owned(),
        format!("{number}:-1"),
        format!("{number}:-1:{inode}:4"),
        format!("{number}:-1:many"),
        // Standard streams are nobody's sockets.
        format!("1:-1:{inode}"),
        format!("{number}:0:{inode}"),
        // Not a userfaultfd device, not a socket, and nobody at the other end.
        format!("{number}:{number}:{inode}"),
        format!("{}:-1:{inode}", memory.as_raw_fd()),
        format!("{number}:-1:{inode}"),
    ] {
        let preload = Preload { environment: environment.clone(), user: 0, inherited: Vec::new() };
        let memory = memory.try_clone().unwrap();
        let mut monitor =
            Monitor::spawn_with(Kind::Preload, memory, PAGES * 4096, 4096, &socket, Some(&preload));
        assert_eq!(monitor.child().wait().unwrap().code(), Some(1), "{environment}");
    }
}
