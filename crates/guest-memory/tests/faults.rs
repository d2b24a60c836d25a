//! A second process touches its memory, and finds the image there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is meant")]

mod common;

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use common::model::{Image, PAGE, content, is_zero, pattern};
use common::monitor::{Kind, LONG, Monitor};
use guest_memory::{Options, PageServer, PageServerError, Stats};

const PAGES: u64 = 2048;

/// The second process of the tests below.
#[test]
fn peer() {
    common::peer::main();
}

fn start(kind: Kind, image: &Arc<Image>) -> (Monitor, PageServer, Receiver<PageServerError>) {
    Monitor::served(kind, image, true)
}

fn no_failure(failure: &Receiver<PageServerError>) {
    assert!(failure.try_recv().is_err());
}

/// What was done, once `pages` pages were filled: a thread goes on a little before its fault is counted.
fn settled(server: &PageServer, pages: u64) -> Stats {
    let end = Instant::now() + LONG;
    loop {
        let stats = server.stats();
        if stats.fault_pages + stats.zero_pages + stats.prefetched_pages >= pages || Instant::now() > end {
            return stats;
        }
        std::thread::yield_now();
    }
}

#[test]
fn every_page_is_the_images_and_copied_once() {
    for kind in [Kind::Preload, Kind::Anonymous] {
        let image = Arc::new(Image::new(PAGES));
        let (mut monitor, server, failure) = start(kind, &image);
        for page in 0..PAGES {
            assert!(monitor.read(page) == content(page), "page {page}");
        }
        let zeros = (0..PAGES).filter(|page| is_zero(*page)).count() as u64;
        let stats = settled(&server, PAGES);
        assert_eq!((stats.fault_pages, stats.zero_pages), (PAGES - zeros, zeros), "{kind:?}");
        for page in 0..PAGES {
            assert_eq!(image.reads(page), u32::from(!is_zero(page)), "zero pages are not read, others once");
        }
        assert_eq!(server.working_set(), vec![0..PAGES]);
        monitor.kill();
        server.stop();
        no_failure(&failure);
    }
}

#[test]
fn writes_stay() {
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, failure) = start(Kind::Preload, &image);
    monitor.run("environment");
    monitor.run("poke 0"); // A write is the first touch: the rest of the page is the image's.
    assert!(monitor.read(0) == content(0));
    monitor.run("write 1 77");
    monitor.run("kernel 2 78");
    monitor.run("write 3 79"); // Zero in the image.
    assert!(monitor.read(2) == pattern(78) && monitor.read(3) == pattern(79));
    assert!(monitor.read(4) == content(4));
    monitor.run("write 4 80"); // After it was read.
    server.prefetch(vec![0..PAGES]).unwrap();
    assert!(server.wait_prefetched(LONG));
    assert!(monitor.read(1) == pattern(77));
    assert!(monitor.read(4) == pattern(80));
    monitor.kill();
    no_failure(&failure);
}

#[test]
fn faults_on_protected_pages_are_answered() {
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, failure) = start(Kind::Protected, &image);
    assert!(monitor.read(0) == content(0));
    server.prefetch(vec![1..3]).unwrap();
    assert!(server.wait_prefetched(LONG));
    for page in 0..6 {
        monitor.run(&format!("write {page} {}", page + 50));
        assert!(monitor.read(page) == pattern(page + 50));
    }
    assert!(image.most_reads() == 1);
    monitor.kill();
    no_failure(&failure);
}

#[test]
fn threads_on_the_same_pages() {
    for kind in [Kind::Preload, Kind::Anonymous] {
        let image = Arc::new(Image::new(PAGES));
        let (mut monitor, server, failure) = start(kind, &image);
        monitor.ask("read-all 8");
        // Meanwhile, from both ends.
        server.prefetch(vec![PAGES / 2..PAGES, 0..PAGES / 2]).unwrap();
        assert_eq!(monitor.answer(), "ok");
        assert!(server.wait_prefetched(LONG));
        let stats = settled(&server, PAGES);
        let data = (0..PAGES).filter(|page| !is_zero(*page)).count() as u64;
        assert_eq!(stats.fault_pages + stats.prefetched_pages, data, "each page once: {stats:?}");
        monitor.kill();
        no_failure(&failure);
    }
}

#[test]
fn prefetched_pages_do_not_fault() {
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, failure) = start(Kind::Preload, &image);
    server.prefetch(vec![100..300, 0..10, 5..20, 4000..5000]).unwrap();
    assert!(server.wait_prefetched(LONG));
    let faults = server.stats().faults;
    for page in (0..20).chain(100..300).filter(|page| !is_zero(*page)) {
        assert!(monitor.read(page) == content(page));
    }
    assert_eq!(server.stats().faults, faults);
    assert_eq!(image.most_reads(), 1);
    assert!(server.working_set().is_empty());
    // Zero pages take no memory before they are touched.
    let held = server.memfd().map(|memfd| rustix::fs::fstat(memfd).unwrap().st_blocks * 512 / PAGE as i64);
    assert_eq!(held, i64::try_from(server.stats().prefetched_pages).ok());
    monitor.kill();
    no_failure(&failure);
}

#[test]
fn prefetching_can_be_cancelled() {
    let image = Arc::new(Image::new(PAGES));
    image.latency.store(20_000, std::sync::atomic::Ordering::Relaxed);
    let (mut monitor, server, failure) = start(Kind::Preload, &image);
    server.prefetch(vec![0..PAGES]).unwrap();
    server.cancel_prefetch();
    let after = server.stats().prefetched_pages;
    assert!(after < PAGES / 2, "{after}");
    image.latency.store(0, std::sync::atomic::Ordering::Relaxed);
    assert!(monitor.read(PAGES - 200) == content(PAGES - 200));
    assert_eq!(server.stats().prefetched_pages, after);
    // It can begin again.
    server.prefetch(vec![0..PAGES]).unwrap();
    assert!(server.wait_prefetched(LONG));
    assert!(server.stats().prefetched_pages > after);
    monitor.kill();
    no_failure(&failure);
}

#[test]
fn remembers_the_order() {
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, failure) = start(Kind::Preload, &image);
    for page in [500, 501, 502, 20, 21, 503, 20, 500] {
        monitor.read(page);
    }
    settled(&server, 6);
    assert_eq!(server.working_set(), [500..503, 20..22, 503..504]);
    monitor.kill();
    no_failure(&failure);
}

#[test]
fn a_lost_page_ends_it_once_and_reads_as_nothing() {
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, failure) = start(Kind::Preload, &image);
    image.lose(5);
    // It only warns: nobody needs the page yet.
    server.prefetch(vec![0..10]).unwrap();
    assert!(server.wait_prefetched(LONG));
    assert_eq!(server.stats().prefetch_failures, 1);
    no_failure(&failure);

    monitor.ask("read 5");
    let error = failure.recv_timeout(LONG).unwrap();
    assert!(matches!(error, PageServerError::Source { page: 5, .. }), "{error}");
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
    assert!(monitor.silent_for(Duration::from_millis(200)), "a page that is lost must not read as anything");
    // The monitor that waits can be ended.
    assert!(monitor.kill() < Duration::from_secs(5));
    server.stop();
    assert!(failure.recv().is_err(), "told once");
}

#[test]
fn a_panic_ends_it() {
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, failure) = start(Kind::Preload, &image);
    image.panic_at(6);
    monitor.ask("read 6");
    let error = failure.recv_timeout(LONG).unwrap();
    assert!(matches!(error, PageServerError::Panicked(_)), "{error}");
    assert!(monitor.silent_for(Duration::from_millis(50)));
    monitor.kill();
    drop(server);
}

#[test]
fn a_panic_while_prefetching_ends_it() {
    let image = Arc::new(Image::new(PAGES));
    let (monitor, server, failure) = start(Kind::Preload, &image);
    image.panic_at(6);
    server.prefetch(vec![0..10]).unwrap();
    let error = failure.recv_timeout(LONG).unwrap();
    assert!(matches!(error, PageServerError::Panicked(_)), "{error}");
    assert!(server.wait_prefetched(LONG));
    monitor.kill();
    server.stop();
}

#[test]
fn a_monitor_without_a_server_waits() {
    // The server is gone, as after a crash, and the monitor was not ended yet: it holds the userfaultfd itself.
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, failure) = start(Kind::Preload, &image);
    assert!(monitor.read(0) == content(0));
    drop(server);
    monitor.ask("read 1");
    assert!(monitor.silent_for(Duration::from_millis(200)), "it must not read zeros");
    assert!(monitor.kill() < Duration::from_secs(5));
    no_failure(&failure);
}

#[test]
fn notices_the_monitors_end() {
    let image = Arc::new(Image::new(PAGES));
    let (monitor, server, failure) = start(Kind::Preload, &image);
    server.prefetch(vec![0..PAGES]).unwrap();
    monitor.kill();
    assert!(server.wait_prefetched(LONG));
    server.stop();
    no_failure(&failure);
}

#[test]
fn refuses_memory_larger_than_the_image() {
    let (monitor, handshake) = Monitor::start(Kind::Preload, PAGES);
    let options = Options { on_failure: Box::new(|_| {}), record: false };
    let error = PageServer::start(handshake, Arc::new(Image::new(PAGES - 1)), options).unwrap_err();
    assert!(matches!(error, PageServerError::TooLarge { end: PAGES, .. }), "{error}");
    monitor.kill();
}

#[test]
fn memory_is_not_mapped_a_second_time() {
    let image = Arc::new(Image::new(PAGES));
    let (mut monitor, server, _failure) = start(Kind::Preload, &image);
    monitor.ask("map-again");
    assert_eq!(monitor.child().wait().unwrap().code(), Some(1));
    server.stop();
}
