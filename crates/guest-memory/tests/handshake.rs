//! What comes of whatever a monitor sends. One test in a program of its own: it counts the process's descriptors.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::userfaultfd;
use guest_memory::GuestMemory;
use guest_memory::RegionError;
use guest_memory::handshake::{HandshakeError, MAX_JSON_BYTES, pair, receive};

const GOOD: &str = r#"[{"base_host_virt_addr":8388608,"size":8192,"offset":0,"page_size":4096}]"#;
const SOON: Duration = Duration::from_millis(100);

/// The numbers of all open descriptors. The one that lists them is closed afterwards, whatever its number was.
fn open() -> BTreeSet<i32> {
    let listed: Vec<i32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().parse().unwrap())
        .collect();
    // SAFETY: the number is only borrowed for one system call, which fails when it is not open.
    let alive = |number: &i32| rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(*number) }).is_ok();
    listed.into_iter().filter(alive).collect()
}

struct Case {
    name: &'static str,
    text: String,
    /// Made when its turn comes.
    descriptors: fn() -> Vec<OwnedFd>,
    expected: fn(&HandshakeError) -> bool,
}

fn uffd() -> OwnedFd {
    userfaultfd::open()
}

fn memfd(pages: u64) -> OwnedFd {
    GuestMemory::create(pages * 4096).unwrap().into_fd()
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn cases() -> Vec<Case> {
    let case =
        |name, text: &str, descriptors, expected| Case { name, text: text.to_owned(), descriptors, expected };
    let overlap = GOOD.replace('[', &format!("[{},", &GOOD[1..GOOD.len() - 1]));
    vec![
        case("no descriptor", GOOD, Vec::new, |error| matches!(error, HandshakeError::NoDescriptors)),
        case(
            "three",
            GOOD,
            || vec![uffd(), memfd(2), null()],
            |error| matches!(error, HandshakeError::TooManyDescriptors),
        ),
        case(
            "sixty",
            GOOD,
            || (0..60).map(|_| null()).collect(),
            |error| matches!(error, HandshakeError::LostDescriptors),
        ),
        case(
            "not a userfaultfd",
            GOOD,
            || vec![null()],
            |error| matches!(error, HandshakeError::NotUserfaultfd(what) if what == "/dev/null"),
        ),
        case(
            "in the wrong order",
            GOOD,
            || vec![memfd(2), uffd()],
            |error| matches!(error, HandshakeError::NotUserfaultfd(_)),
        ),
        case(
            "not a memfd",
            GOOD,
            || vec![uffd(), null()],
            |error| matches!(error, HandshakeError::NotMemfd(what) if what == "/dev/null"),
        ),
        case(
            "a smaller memfd",
            GOOD,
            || vec![uffd(), memfd(1)],
            |error| matches!(error, HandshakeError::Regions(RegionError::BeyondMemfd { .. })),
        ),
        case(
            "a long text",
            &format!("[{}", " ".repeat(MAX_JSON_BYTES)),
            || vec![uffd()],
            |error| matches!(error, HandshakeError::TooLong),
        ),
        case(
            "a very long text",
            &" ".repeat(100_000),
            || vec![uffd(), memfd(2)],
            |error| matches!(error, HandshakeError::TooLong),
        ),
        case(
            "no JSON",
            "hello",
            || vec![uffd()],
            |error| matches!(error, HandshakeError::Regions(RegionError::Json(_))),
        ),
        case(
            "not text",
            "[\u{0}\u{7f}",
            || vec![uffd()],
            |error| matches!(error, HandshakeError::Regions(RegionError::Json(_))),
        ),
        case(
            "half of it",
            &GOOD[..40],
            || vec![uffd(), memfd(2)],
            |error| matches!(error, HandshakeError::TimedOut),
        ),
        case(
            "no regions",
            "[]",
            || vec![uffd()],
            |error| matches!(error, HandshakeError::Regions(RegionError::None)),
        ),
        case(
            "an empty region",
            &GOOD.replace("8192", "0"),
            || vec![uffd()],
            |error| matches!(error, HandshakeError::Regions(RegionError::Empty(0))),
        ),
        case(
            "unaligned",
            &GOOD.replace("8192", "8193"),
            || vec![uffd()],
            |error| matches!(error, HandshakeError::Regions(RegionError::Unaligned(0))),
        ),
        case(
            "overlapping",
            &overlap,
            || vec![uffd(), memfd(2)],
            |error| matches!(error, HandshakeError::Regions(RegionError::Overlap(0, 1))),
        ),
    ]
}

#[test]
fn everything_received_is_closed_and_nothing_else() {
    // What the runtime opens once is open now.
    drop((userfaultfd::open(), memfd(1)));
    let before = open();
    assert!(before.is_superset(&BTreeSet::from([0, 1, 2])));

    for case in cases() {
        let (ours, theirs) = pair().unwrap();
        let theirs = UnixStream::from(theirs);
        let sent = (case.descriptors)();
        let descriptors: Vec<_> = sent.iter().map(AsFd::as_fd).collect();
        userfaultfd::send(&theirs, case.text.as_bytes(), &descriptors);
        let error = receive(ours, Instant::now() + SOON).expect_err(case.name);
        println!("{}: {error}", case.name);
        assert!((case.expected)(&error), "{}: {error:?}", case.name);
        // Our end is closed.
        assert!(rustix::io::write(&theirs, b"x").is_err(), "{}", case.name);
        drop(theirs);
        drop(sent);
        assert_eq!(open(), before, "{}", case.name);
    }

    silence_and_goodbye();
    assert_eq!(open(), before);
    good_ones();
    assert_eq!(open(), before);
    no_room(&before);
    assert_eq!(open(), before);
}

fn silence_and_goodbye() {
    let (ours, theirs) = pair().unwrap();
    let begin = Instant::now();
    assert!(matches!(receive(ours, begin + SOON), Err(HandshakeError::TimedOut)));
    assert!(begin.elapsed() >= SOON && begin.elapsed() < Duration::from_secs(10));
    drop(theirs);

    let (ours, theirs) = pair().unwrap();
    drop(theirs);
    assert!(matches!(receive(ours, Instant::now() + SOON), Err(HandshakeError::Closed)));

    let (ours, theirs) = pair().unwrap();
    let theirs = UnixStream::from(theirs);
    userfaultfd::send(&theirs, &GOOD.as_bytes()[..10], &[uffd().as_fd()]);
    drop(theirs);
    assert!(matches!(receive(ours, Instant::now() + SOON), Err(HandshakeError::Closed)));
}

fn good_ones() {
    for memory in [None, Some(memfd(2))] {
        let (ours, theirs) = pair().unwrap();
        let theirs = UnixStream::from(theirs);
        let uffd = uffd();
        let mut descriptors = vec![uffd.as_fd()];
        descriptors.extend(memory.as_ref().map(AsFd::as_fd));
        // In two parts, and with the descriptors beside the first.
        userfaultfd::send(&theirs, &GOOD.as_bytes()[..10], &descriptors);
        userfaultfd::send(&theirs, &GOOD.as_bytes()[10..], &[]);
        let handshake = receive(ours, Instant::now() + SOON).unwrap();
        assert_eq!(handshake.memfd.is_some(), memory.is_some());
        assert_eq!(handshake.pid, std::process::id());
        let flags = rustix::io::fcntl_getfd(&handshake.uffd).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "not for our children");
        let [region] = handshake.regions.as_slice() else { panic!("{handshake:?}") };
        assert_eq!((region.addr, region.size, region.offset, region.page_size), (8_388_608, 8192, 0, 4096));
    }
}

/// This process has no numbers left for what comes.
fn no_room(before: &BTreeSet<i32>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let (ours, theirs) = pair().unwrap();
    let theirs = UnixStream::from(theirs);
    userfaultfd::send(&theirs, GOOD.as_bytes(), &[uffd().as_fd(), memfd(2).as_fd()]);
    let normal = getrlimit(Resource::Nofile);
    // The lowest free number is the only one that may still be used.
    let lowest = {
        use std::os::fd::AsRawFd;
        u64::try_from(null().as_raw_fd()).unwrap()
    };
    setrlimit(Resource::Nofile, Rlimit { current: Some(lowest + 1), ..normal }).unwrap();
    let result = receive(ours, Instant::now() + SOON);
    setrlimit(Resource::Nofile, normal).unwrap();
    assert!(matches!(result, Err(HandshakeError::LostDescriptors)), "{result:?}");
    drop((theirs, result));
    assert_eq!(&open(), before);
}
