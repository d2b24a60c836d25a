//! A row of two thousand pauses, with compaction between them as far as there is time for it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use artifacts::{Compacted, Compaction, Image, MANY, Store, plan, sources, stored_bytes, usage};
use build::{PageSink, data_object_bytes};

use support::{Scene, id, page, read};

const PAUSES: usize = 2000;
/// 64 MiB, of which the template has a quarter.
const PAGES: usize = 16 << 10;
const TEMPLATE: usize = PAGES / 4;
/// What a pause writes: mostly in a place that is always written to.
const WRITTEN: usize = 32;
const HOT: usize = 1 << 10;
/// No builds may be needed but so many: those of the plan, the build itself and the template.
const MOST_SOURCES: usize = MANY + 2;

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// A sandbox that is paused again and again, and what its disk is.
struct Life {
    scene: Scene,
    /// The number that each page was made of; zero for a zero page.
    model: Vec<usize>,
    numbers: Numbers,
    /// Builds and contents are numbered.
    last: usize,
    content: usize,
    written: u64,
    copied: u64,
}

impl Life {
    fn new(scene: Scene) -> Self {
        let mut model = vec![0; PAGES];
        for (at, number) in model[..TEMPLATE].iter_mut().enumerate() {
            *number = at + 1;
        }
        scene.publish(0, None, PAGES as u64, |writer| {
            model[..TEMPLATE].chunks(256).zip(0..).for_each(|(numbers, chunk): (&[usize], u64)| {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| page(*number)).collect();
                writer.data(chunk * 256, &bytes).unwrap();
            });
        });
        Self { scene, model, numbers: Numbers(1), last: 0, content: TEMPLATE, written: 0, copied: 0 }
    }

    fn pause(&mut self) {
        let mut changed = BTreeSet::new();
        while changed.len() < WRITTEN {
            // Three of four writes go where writes always go.
            let hot = self.numbers.below(4) != 0;
            changed.insert(if hot { PAGES / 2 + self.numbers.below(HOT) } else { self.numbers.below(PAGES) });
        }
        let parent = Arc::new(self.scene.image(self.last).unwrap());
        self.last += 1;
        let (model, numbers, content) = (&mut self.model, &mut self.numbers, &mut self.content);
        self.scene.publish(self.last, Some(parent), PAGES as u64, |writer| {
            for at in changed {
                if numbers.below(16) == 0 {
                    model[at] = 0;
                    writer.zero(at as u64, 1).unwrap();
                } else {
                    *content += 1;
                    model[at] = *content;
                    writer.data(at as u64, &page(*content)).unwrap();
                }
            }
        });
        self.written += data_object_bytes(WRITTEN as u64);
        self.collect();
    }

    /// What the node's worker does. The template is needed by others, too.
    fn compact(&mut self) {
        let (from, into) = (id(self.last), id(self.last + 1));
        let without = plan(&from, &usage(&self.scene.store, &from).unwrap(), |build| *build != id(0));
        if without.is_empty() {
            return;
        }
        let store = &self.scene.store;
        let made = Compaction { store, from: &from, into: &into, without: &without, wanted: &|| true }
            .run()
            .unwrap();
        let Compacted::Published { copied } = made else { panic!("{made:?}") };
        self.copied += copied;
        self.last += 1;
        self.collect();
    }

    /// Deletes what nobody needs.
    fn collect(&self) {
        let needed = sources(&self.scene.store, &self.scene.manifest(self.last)).unwrap();
        for build in self.scene.store.list().unwrap() {
            if build != id(0) && build != id(self.last) && !needed.contains(&build) {
                self.scene.store.remove(&build).unwrap();
            }
        }
    }

    fn image(&self) -> Image {
        self.scene.image(self.last).unwrap()
    }

    /// What the sandbox takes beside the template, in bytes.
    fn stored(&self) -> u64 {
        let builds = self.scene.store.list().unwrap();
        let ours = builds.iter().filter(|build| **build != id(0));
        ours.map(|build| stored_bytes(&self.scene.store, build).unwrap()).sum()
    }

    fn check_every_page(&self) {
        let image = self.image();
        for (chunk, numbers) in self.model.chunks(256).enumerate() {
            let bytes = read(&image, chunk * 256, numbers.len());
            for (at, (found, number)) in bytes.chunks(4096).zip(numbers).enumerate() {
                let expected = if *number == 0 { vec![0; 4096] } else { page(*number) };
                assert!(found == expected, "page {} after build {}", chunk * 256 + at, self.last);
            }
        }
    }
}

#[test]
fn space_and_sources_stay_small_and_every_page_right_from_the_first_pause_to_the_two_thousandth() {
    let mut life = Life::new(Scene::in_memory());
    for depth in 1..=PAUSES {
        life.pause();
        // Sometimes it is resumed at once.
        if depth % 100 == 0 || life.numbers.below(4) != 0 {
            life.compact();
            let image = life.image();
            let sources = image.header().sources().len();
            assert!(sources <= MOST_SOURCES, "{sources} sources at depth {depth}");
        }
        if depth % 100 != 0 {
            continue;
        }
        life.check_every_page();
        let image = life.image();
        let full = data_object_bytes(image.header().stored_pages());
        let bound = full * 13 / 10 + data_object_bytes(WRITTEN as u64);
        let stored = life.stored();
        assert!(stored <= bound, "{stored} bytes are stored at depth {depth}, more than {bound}");
    }
    assert!(life.copied <= 8 * life.written, "{} copied for {} written", life.copied, life.written);
}
