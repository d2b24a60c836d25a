//! Memory of huge pages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is meant")]

mod common;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use common::model::{Image, PAGE, Sink, content, pattern};
use common::monitor::{Kind, LONG, Monitor};
use guest_memory::export::export;
use guest_memory::{MemfdReader, Options, PageServer, dirty, handshake};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

const HUGE: u64 = 2 << 20;
const HUGE_PAGES: u64 = 8;
const PAGES: u64 = HUGE_PAGES * 512;
const SETTING: &str = "/proc/sys/vm/nr_hugepages";

/// The second process of the test below.
#[test]
fn peer() {
    common::peer::main();
}

/// As many huge pages as there were, when this is dropped.
struct Reserved(String);

impl Reserved {
    fn new() -> Result<Self, String> {
        let before = std::fs::read_to_string(SETTING).map_err(|error| format!("{SETTING}: {error}"))?;
        let number: u64 = before.trim().parse().map_err(|error| format!("{SETTING}: {error}"))?;
        let reserved = Self(before);
        let wanted = number + 2 * HUGE_PAGES;
        std::fs::write(SETTING, wanted.to_string()).map_err(|error| format!("{SETTING}: {error}"))?;
        let got = std::fs::read_to_string(SETTING).unwrap_or_default();
        match got.trim().parse::<u64>() {
            Ok(got) if got >= wanted => Ok(reserved),
            _ => Err(format!("asked for {wanted} huge pages, got {}", got.trim())),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let _ = std::fs::write(SETTING, &self.0);
    }
}

#[test]
fn huge_pages_are_served() {
    let _reserved = match Reserved::new() {
        Ok(reserved) => reserved,
        Err(why) => {
            eprintln!("CANNOT RUN: this system gives no huge pages: {why}");
            return;
        }
    };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let memory: OwnedFd = memfd_create("huge", flags).unwrap();
    ftruncate(&memory, PAGES * 4096).unwrap();

    let (ours, theirs) = handshake::pair().unwrap();
    let file = memory.try_clone().unwrap();
    let mut monitor = Monitor::spawn(Kind::Preload, memory, PAGES * 4096, HUGE, &theirs);
    let handshake = handshake::receive(ours, Instant::now() + LONG).unwrap();
    assert_eq!(handshake.regions[0].page_size, HUGE);
    let image = Arc::new(Image::new(PAGES));
    let options = Options { on_failure: Box::new(|error| panic!("{error}")), record: true };
    let server = PageServer::start(handshake, Arc::clone(&image) as _, options).unwrap();

    let mut memory: Vec<[u8; PAGE]> = (0..PAGES).map(content).collect();
    let mut write = |monitor: &mut Monitor, page: u64, seed: u64| {
        monitor.run(&format!("write {page} {seed}"));
        memory[usize::try_from(page).unwrap()] = pattern(seed);
    };
    assert!(monitor.read(5) == content(5));
    assert!(monitor.read(511) == content(511));
    assert_eq!(server.stats().faults, 1, "one fault for all of a huge page");
    write(&mut monitor, 513, 1);
    server.prefetch(vec![1030..1031, 3 * 512..4 * 512]).unwrap();
    assert!(server.wait_prefetched(LONG));
    assert!(monitor.read(1024) == content(1024), "the other pages of the huge page came too");
    write(&mut monitor, 1025, 2);
    assert!(monitor.read(4 * 512 - 1) == content(4 * 512 - 1));
    assert_eq!(server.stats().faults, 2);
    assert_eq!(server.working_set(), vec![0..1024]);
    assert_eq!(image.most_reads(), 1);

    // Given away: pages 4 (there) and 5 (not there).
    assert!(monitor.read(4 * 512) == content(4 * 512));
    monitor.run("remove 2048 1024");
    assert_eq!(server.removed(), vec![2048..3072]);
    assert!(monitor.read(2048) == [0; PAGE]);
    assert!(monitor.read(2560) == [0; PAGE]);
    memory[2048..3072].fill([0; PAGE]);

    let found = dirty::scan(server.pid(), server.regions(), server.memfd(), &server.removed()).unwrap();
    assert_eq!(found, [512..1536, 2048..3072], "what was written or given away, not what was only read");
    monitor.kill();
    let mut sink = Sink::default();
    export(&MemfdReader::new(&file).unwrap(), &found, Some(&*image), &mut sink).unwrap();
    assert_eq!(sink.data.keys().copied().collect::<Vec<_>>(), [513, 1025]);
    for (page, bytes) in (0..).zip(&memory) {
        let now = sink.data.get(&page).map_or_else(
            || if sink.zero.contains(&page) { [0; PAGE] } else { content(page) },
            |bytes| bytes.as_slice().try_into().unwrap(),
        );
        assert!(now == *bytes, "page {page}");
    }
}
