//! A monitor gives pages away, before, while and after they are filled.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]
#![allow(clippy::single_range_in_vec_init, reason = "lists of ranges are what is meant")]

mod common;

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use common::model::{Image, PAGE, content, is_zero};
use common::monitor::{Kind, LONG, Monitor};
use guest_memory::{PageServer, PageServerError};

const PAGES: u64 = 2048;

/// The second process of the tests below.
#[test]
fn peer() {
    common::peer::main();
}

fn start(kind: Kind) -> (Monitor, PageServer, Receiver<PageServerError>) {
    Monitor::served(kind, &Arc::new(Image::new(PAGES)), false)
}

#[test]
fn pages_given_away_are_zero() {
    for (kind, remove) in
        [(Kind::Preload, "remove"), (Kind::Preload, "dontneed"), (Kind::Anonymous, "dontneed")]
    {
        let (mut monitor, server, failure) = start(kind);
        assert!(monitor.read(10) == content(10));
        monitor.run("write 11 5");
        monitor.run(&format!("{remove} 8 8"));
        assert_eq!(server.removed(), vec![8..16]);
        server.prefetch(vec![0..32]).unwrap();
        assert!(server.wait_prefetched(LONG));
        for page in
            (8..16).filter(|page| !(kind == Kind::Preload && remove == "dontneed" && [10, 11].contains(page)))
        {
            assert!(monitor.read(page) == [0; PAGE], "page {page} after {remove} of {kind:?}");
        }
        if (kind, remove) == (Kind::Preload, "dontneed") {
            // What is in the memfd stays there.
            assert!(monitor.read(10) == content(10));
        }
        for page in (0..8).chain(16..32) {
            assert!(monitor.read(page) == content(page));
        }
        // Again, after zeros were put there.
        monitor.run("write 9 6");
        monitor.run(&format!("{remove} 8 2"));
        if remove == "remove" || kind == Kind::Anonymous {
            assert!(monitor.read(9) == [0; PAGE]);
        }
        assert_eq!(server.stats().removals, 2);
        assert_eq!(server.removed(), vec![8..16]);
        monitor.kill();
        assert!(failure.try_recv().is_err());
    }
}

#[test]
fn pages_dropped_without_news_are_zero_and_do_not_come_back() {
    let (mut monitor, server, failure) = start(Kind::Preload);
    assert!(!is_zero(20));
    monitor.run("write 20 5");
    monitor.run("punch 20 1");
    assert!(monitor.read(20) == [0; PAGE], "neither the image's page, nor a wait for ever");
    monitor.kill();
    drop(server);
    assert!(failure.try_recv().is_err());
}

#[test]
fn storms() {
    for (seed, (kind, storm)) in (1..).zip([
        (Kind::Preload, "storm-remove"),
        (Kind::Anonymous, "storm-dontneed"),
        (Kind::Preload, "storm-remove"),
    ]) {
        let (mut monitor, server, failure) = start(kind);
        monitor.ask(&format!("{storm} 1500 {seed}"));
        // Meanwhile, as often as there is something left.
        for _ in 0..20 {
            server.prefetch(vec![PAGES / 3..PAGES, 0..PAGES / 2]).unwrap();
            assert!(server.wait_prefetched(LONG));
        }
        assert_eq!(monitor.answer(), "ok");
        let stats = server.stats();
        assert!(stats.removals > 10, "{stats:?}");
        println!("{kind:?}: {stats:?}");
        monitor.kill();
        server.stop();
        assert!(failure.try_recv().is_err());
    }
}
