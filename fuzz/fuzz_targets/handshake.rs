//! What a monitor says when it hands over its memory: text and descriptors, over a real socket.
//!
//! The first byte of the input says which descriptors are sent, the second whether they come with the first part of the
//! text or with the second, the third where the text is cut in two.
#![no_main]

use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use guest_memory::handshake::{Handshake, HandshakeError, pair, receive};
use libfuzzer_sys::fuzz_target;

#[allow(
    dead_code,
    unsafe_code,
    reason = "the tests need more of it, and making a userfaultfd needs a system call"
)]
#[path = "../../crates/guest-memory/tests/common/userfaultfd.rs"]
mod userfaultfd;

/// Everything is sent before it is received, so nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Larger than most regions that text can say.
const MEMFD_BYTES: u64 = 1 << 40;

/// What can be sent.
struct Descriptors {
    uffd: OwnedFd,
    memfd: OwnedFd,
    other: OwnedFd,
}

static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(|| {
    let memfd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&memfd, MEMFD_BYTES).expect("a sparse file");
    Descriptors {
        uffd: userfaultfd::open(),
        memfd,
        other: File::open("/dev/null").expect("/dev/null").into(),
    }
});

fuzz_target!(|input: &[u8]| {
    let &[which, with, cut, ref text @ ..] = input else { return };
    let sent = descriptors(which);
    let free = lowest_free();
    let (ours, theirs) = pair().expect("two sockets");
    let theirs = UnixStream::from(theirs);
    let (first, second) = text.split_at(usize::from(cut).min(text.len()));
    let (with_first, with_second) = if with & 1 == 0 { (&sent[..], &[][..]) } else { (&[][..], &sent[..]) };
    for (text, descriptors) in [(first, with_first), (second, with_second)] {
        if !text.is_empty() {
            userfaultfd::send(&theirs, text, descriptors);
        }
    }
    theirs.shutdown(Shutdown::Write).expect("a socket");
    match receive(ours, Instant::now() + PATIENCE) {
        Ok(handshake) => check(&handshake),
        Err(HandshakeError::TimedOut) => panic!("it waited for somebody who is gone"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    drop(theirs);
    assert_eq!(lowest_free(), free, "a descriptor is left");
});

/// Two bits for each of three.
fn descriptors(which: u8) -> Vec<BorrowedFd<'static>> {
    let Descriptors { uffd, memfd, other } = &*DESCRIPTORS;
    let kinds = [None, Some(uffd.as_fd()), Some(memfd.as_fd()), Some(other.as_fd())];
    (0..3).filter_map(|index| kinds[usize::from(which >> (2 * index) & 3)]).collect()
}

/// The number that the next descriptor gets: the lowest that is free.
fn lowest_free() -> i32 {
    rustix::io::dup(&DESCRIPTORS.other).expect("a descriptor").as_raw_fd()
}

/// What the page server takes for granted.
fn check(handshake: &Handshake) {
    assert!(!handshake.regions.is_empty());
    for region in &handshake.regions {
        assert!(region.pages() > 0);
        let (first, last) = (region.first_page(), region.first_page() + region.pages() - 1);
        for page in [first, last] {
            let addr = region.addr_of(page).expect("it is inside");
            assert_eq!(region.page_at(addr), Some(page));
            let others = handshake.regions.iter().filter(|other| other.page_at(addr).is_some());
            assert_eq!(others.count(), 1, "{:?}", handshake.regions);
        }
        assert_eq!(region.addr_of(last + 1), None);
        if handshake.memfd.is_some() {
            assert!(region.offset + region.size <= MEMFD_BYTES);
        }
    }
}
