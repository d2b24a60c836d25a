//! What a snapshot would store, of a process that wrote to its memory in every way there is.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is meant")]

mod common;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use build::Pages;
use common::model::{Image, PAGE, Random, Sink, content, pattern};
use common::monitor::{Kind, LONG, Monitor};
use guest_memory::export::{Exported, export};
use guest_memory::{MemfdReader, MemoryReader, Options, PageServer, ProcessReader, dirty};

const PAGES: u64 = 2048;

/// The second process of the tests below.
#[test]
fn peer() {
    common::peer::main();
}

fn start(kind: Kind) -> (Monitor, PageServer, Arc<Image>) {
    let (monitor, handshake) = Monitor::start(kind, PAGES);
    let image = Arc::new(Image::new(PAGES));
    let options = Options { on_failure: Box::new(|error| panic!("{error}")), record: false };
    let server = PageServer::start(handshake, Arc::clone(&image) as _, options).unwrap();
    (monitor, server, image)
}

fn set(ranges: &[Range<u64>]) -> BTreeSet<u64> {
    ranges.iter().cloned().flatten().collect()
}

/// What the guest has, as the test knows.
type Model = Vec<[u8; PAGE]>;

fn model() -> Model {
    (0..PAGES).map(content).collect()
}

/// What has to come out of an export of `memory`.
fn check(exported: Exported, sink: &Sink, memory: &Model) {
    for (page, bytes) in (0..).zip(memory) {
        let before = content(page);
        if *bytes == before {
            assert!(!sink.data.contains_key(&page) && !sink.zero.contains(&page), "page {page} is as it was");
        } else if *bytes == [0; PAGE] {
            assert!(sink.zero.contains(&page) && !sink.data.contains_key(&page), "page {page} is zero now");
        } else {
            assert_eq!(sink.data.get(&page).map(Vec::as_slice), Some(bytes.as_slice()), "page {page} is new");
        }
    }
    assert_eq!((exported.data, exported.zero), (sink.data.len() as u64, sink.zero.len() as u64));
}

fn candidates(server: &PageServer) -> Vec<Range<u64>> {
    dirty::scan(server.pid(), server.regions(), server.memfd(), &server.removed()).unwrap()
}

/// Touches pages at random. The pages that may have changed.
fn play(
    monitor: &mut Monitor,
    server: &PageServer,
    kind: Kind,
    seed: u64,
    memory: &mut Model,
) -> BTreeSet<u64> {
    let mut random = Random(seed);
    let mut touched = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for step in 0..600 {
        let page = random.below(PAGES);
        let index = usize::try_from(page).unwrap();
        let new = seed * 10_000 + step;
        match random.below(if kind == Kind::Preload { 11 } else { 9 }) {
            0..4 => {
                assert!(monitor.read(page) == memory[index]);
                seen.insert(page);
                continue;
            }
            4 => {
                monitor.run(&format!("write {page} {new}"));
                memory[index] = pattern(new);
            }
            5 => {
                monitor.run(&format!("kernel {page} {new}"));
                memory[index] = pattern(new);
            }
            // Written, but not changed.
            6 if memory[index][0] == content(page)[0] => monitor.run(&format!("poke {page}")),
            6 => continue,
            7 => {
                monitor.run(&format!("zero {page}"));
                memory[index] = [0; PAGE];
            }
            8 => {
                let pages = 1 + random.below(4.min(PAGES - page));
                // Of shared memory, that only drops entries of the page table, but of pages that are not there yet the
                // monitor has said that it does not want them.
                monitor.run(&format!(
                    "{} {page} {pages}",
                    if kind == Kind::Preload { "remove" } else { "dontneed" }
                ));
                for page in page..page + pages {
                    memory[usize::try_from(page).unwrap()] = [0; PAGE];
                    touched.insert(page);
                }
            }
            // Only entries of the page table: what they said is lost, the content is not.
            9 => {
                assert!(monitor.read(page) == memory[index]);
                monitor.run(&format!("dontneed {page} 1"));
                assert!(monitor.read(page) == memory[index]);
            }
            // Past the mapping, where nothing is yet.
            _ if !seen.contains(&page) && !touched.contains(&page) => {
                monitor.run(&format!("pwrite {page} {new}"));
                memory[index] = pattern(new);
            }
            _ => continue,
        }
        touched.insert(page);
        seen.insert(page);
        if step % 200 == 100 {
            let first = random.below(PAGES - 64);
            // After that, pages are there that were not touched.
            server.prefetch(vec![first..first + 64]).unwrap();
            assert!(server.wait_prefetched(LONG));
            seen.extend(first..first + 64);
        }
    }
    touched
}

#[test]
fn random_writes_are_all_found_and_nothing_else() {
    for seed in 1..5 {
        let (mut monitor, server, image) = start(Kind::Preload);
        let mut memory = model();
        let touched = play(&mut monitor, &server, Kind::Preload, seed, &mut memory);
        let found = candidates(&server);
        assert_eq!(set(&found), touched, "exactly what was touched by more than reading");

        let reader_of = monitor.memory.try_clone().unwrap();
        // After the monitor is gone.
        monitor.kill();
        server.stop();
        let mut sink = Sink::default();
        let reader = MemfdReader::new(&reader_of).unwrap();
        let exported = export(&reader, &found, Some(&*image), &mut sink).unwrap();
        check(exported, &sink, &memory);
        assert!(exported.unchanged > 0, "pages that were written but not changed are left out");

        // Looking at everything that is there, as without tracking of writes, gives the same.
        let mut all = dirty::populated(&reader_of).unwrap();
        all.extend(found);
        let mut slow = Sink::default();
        export(&reader, &all, Some(&*image), &mut slow).unwrap();
        assert!(slow.data == sink.data && slow.zero == sink.zero);
    }
}

#[test]
fn a_monitor_without_memfd() {
    for seed in 1..3 {
        let (mut monitor, server, image) = start(Kind::Anonymous);
        let mut memory = model();
        let touched = play(&mut monitor, &server, Kind::Anonymous, seed, &mut memory);
        // Nothing tells writes from reads there.
        let found = candidates(&server);
        assert!(set(&found).is_superset(&touched));
        assert!(set(&found).len() < usize::try_from(PAGES).unwrap());
        let reader = ProcessReader::new(monitor.pid(), server.regions()).unwrap();
        assert_eq!(reader.pages(), PAGES);
        let mut sink = Sink::default();
        let exported = export(&reader, &found, Some(&*image), &mut sink).unwrap();
        check(exported, &sink, &memory);
        monitor.kill();
        assert!(reader.read(0, &mut [0; PAGE]).is_err(), "the process is gone");
    }
}

#[test]
fn a_booted_machine_stores_all_but_zeros() {
    let (_, socket) = guest_memory::handshake::pair().unwrap();
    let memory = guest_memory::GuestMemory::create(PAGES * 4096).unwrap();
    let mut monitor = Monitor::spawn(Kind::Unserved, memory.into_fd(), PAGES * 4096, 4096, &socket);
    for page in [0, 1, 2, 700, PAGES - 1] {
        monitor.run(&format!("write {page} {page}"));
    }
    monitor.run("zero 900");
    assert!(monitor.read(1000) == [0; PAGE]);
    let file = monitor.memory.try_clone().unwrap();
    monitor.kill();
    let found = dirty::populated(&file).unwrap();
    assert!(set(&found).is_superset(&BTreeSet::from([0, 1, 2, 700, 900, PAGES - 1])));
    let mut sink = Sink::default();
    let exported = export(&MemfdReader::new(&file).unwrap(), &found, None, &mut sink).unwrap();
    assert_eq!((exported.data, exported.zero), (5, 0));
    assert!(sink.data.iter().all(|(page, bytes)| *bytes == pattern(*page)));
}

#[test]
fn a_scan_does_not_move_the_memorys_position() {
    let memory = guest_memory::GuestMemory::create(1 << 20).unwrap();
    rustix::io::pwrite(&memory, b"x", 5 * 4096).unwrap();
    assert_eq!(dirty::populated(&memory).unwrap(), vec![5..6]);
    assert_eq!(rustix::fs::tell(&memory).unwrap(), 0);
}

#[test]
fn errors_tell_which_page() {
    struct Broken;
    impl MemoryReader for Broken {
        fn pages(&self) -> u64 {
            PAGES
        }
        fn read(&self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
            Err(std::io::Error::other("no such luck"))
        }
    }
    let error = export(&Broken, std::slice::from_ref(&(7..9)), None, &mut Sink::default()).unwrap_err();
    assert_eq!(error.to_string(), "reading page 7 of the guest's memory: no such luck");

    let memory = guest_memory::GuestMemory::create(1 << 20).unwrap();
    rustix::io::pwrite(&memory, b"x", 5 * 4096).unwrap();
    let reader = MemfdReader::new(&memory).unwrap();
    let image = Image::new(256);
    image.lose(5);
    let error =
        export(&reader, std::slice::from_ref(&(5..6)), Some(&image as &dyn Pages), &mut Sink::default());
    assert!(error.unwrap_err().to_string().starts_with("reading page 5 of the image before: "));
    let error = export(&reader, std::slice::from_ref(&(255..257)), None, &mut Sink::default()).unwrap_err();
    assert!(
        error.to_string().starts_with("reading page 255 of the guest's memory"),
        "memory ends before: {error}"
    );
}
