//! What compaction costs, and what it keeps small, in any row of pauses.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::collections::{BTreeMap, BTreeSet};

use artifacts::{FEW, LIVE_PER_DEAD, MANY, SPARE, Usage, plan};
use model::BuildId;
use proptest::prelude::*;

/// What is written at once, in bytes: images of a few thousand of these are large enough for all rules.
const UNIT: u64 = 64 << 10;

fn id(number: usize) -> BuildId {
    format!("b{number}").parse().unwrap()
}

fn source(number: usize, stored: u64, used: u64) -> Usage {
    Usage { build: id(number), stored, used }
}

fn planned(sources: &[Usage], shared: &[usize]) -> Vec<String> {
    let shared: BTreeSet<BuildId> = shared.iter().map(|number| id(*number)).collect();
    let without = plan(&id(0), sources, |build| !shared.contains(build));
    without.iter().map(ToString::to_string).collect()
}

#[test]
fn a_build_that_wastes_little_is_good_as_it_is() {
    let none: [&str; 0] = [];
    assert_eq!(planned(&[], &[]), none);
    let live = 100 << 20;
    let allowed = SPARE + (live + 2 * live) / LIVE_PER_DEAD;
    let sources = |dead: u64| [source(0, live, live), source(1, live + dead, live), source(2, live, live)];
    assert_eq!(planned(&sources(allowed), &[]), none);
    assert_eq!(planned(&sources(allowed + 1), &[]), ["b1"]);
    // Its dead pages stay anyway, and so nothing is won.
    assert_eq!(planned(&sources(10 * live), &[1]), none);
    // Nor is anything but the rest of it dead in the build itself.
    assert_eq!(planned(&[source(0, 10 * live, live)], &[]), none);
}

#[test]
fn what_frees_most_for_its_copy_goes_first() {
    let mib = |mib: u64| mib << 20;
    let sources = [
        source(0, mib(10), mib(10)),
        source(1, mib(100), mib(90)),
        source(2, mib(50), mib(1)),
        source(3, mib(30), mib(20)),
        // All of it is lost: to find that out is for whoever reads it.
        source(4, 0, mib(1)),
    ];
    assert_eq!(planned(&sources, &[]), ["b2", "b3"]);
    assert_eq!(planned(&sources, &[2]), [""; 0]);
}

#[test]
fn of_many_sources_the_largest_are_left() {
    let row = |count: u64| -> Vec<Usage> {
        (0..=count).map(|at| source(usize::try_from(at).unwrap(), (at + 1) * 4096, (at + 1) * 4096)).collect()
    };
    assert!(planned(&row(MANY as u64), &[]).is_empty());
    let many = planned(&row(MANY as u64 + 1), &[]);
    assert_eq!(many.len(), MANY + 1 - FEW);
    assert!(!many.contains(&id(MANY + 1).to_string()) && many.contains(&id(1).to_string()));
    // Those that others need are neither counted nor taken.
    assert!(planned(&row(MANY as u64 + 2), &[1, 2]).is_empty());
}

/// One pause: what changes since the one before.
#[derive(Debug, Clone)]
struct Step {
    first: prop::sample::Index,
    units: usize,
    /// Every so many units; the others in between stay.
    stride: usize,
    /// Whether these become zero.
    zero: bool,
    /// Whether there is time for compaction before the next.
    time: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let units = prop_oneof![4 => 1..20_usize, 2 => 20..200_usize, 1 => 200..3000_usize];
    (any::<prop::sample::Index>(), units, 1..8_usize, prop::bool::weighted(0.1), prop::bool::weighted(0.8))
        .prop_map(|(first, units, stride, zero, time)| Step { first, units, stride, zero, time })
}

/// Builds without content.
#[derive(Default)]
struct Row {
    /// The build that has each unit of the image, if it is not zero.
    units: Vec<Option<usize>>,
    /// What each build takes.
    stored: BTreeMap<usize, u64>,
    number: usize,
    changed: u64,
    copied: u64,
}

impl Row {
    /// The sources of the last build.
    fn usage(&self) -> Vec<Usage> {
        let mut used: BTreeMap<usize, u64> = BTreeMap::new();
        for build in self.units.iter().flatten() {
            *used.entry(*build).or_default() += UNIT;
        }
        used.into_iter().map(|(build, used)| source(build, self.stored[&build], used)).collect()
    }

    /// Has the units at `at` in a new build.
    fn write(&mut self, at: &[usize], zero: bool, overhead: u64) {
        self.number += 1;
        let written = if zero { 0 } else { at.len() as u64 * UNIT };
        self.stored.insert(self.number, written + overhead);
        at.iter().for_each(|unit| self.units[*unit] = (!zero).then_some(self.number));
    }

    fn pause(&mut self, step: &Step, overhead: u64) {
        let size = self.units.len();
        let first = step.first.index(size);
        let at: Vec<usize> = (first..size).step_by(step.stride).take(step.units).collect();
        self.changed += at.len() as u64 * UNIT + overhead;
        self.write(&at, step.zero, overhead);
    }

    fn compact(&mut self, overhead: u64) {
        let (last, usage) = (self.number, self.usage());
        let without = plan(&id(last), &usage, |_| true);
        if without.is_empty() {
            return;
        }
        let taken = |build: &usize| *build == last || without.contains(&id(*build));
        let at: Vec<usize> =
            (0..self.units.len()).filter(|unit| self.units[*unit].as_ref().is_some_and(taken)).collect();
        self.copied += at.len() as u64 * UNIT;
        self.write(&at, false, overhead);
    }

    /// What the last build and its sources take, and what of it is needed.
    fn space(&self) -> (u64, u64, usize) {
        let usage = self.usage();
        let stored =
            usage.iter().filter(|source| source.build != id(self.number)).map(|source| source.stored);
        (
            stored.sum::<u64>() + self.stored[&self.number],
            usage.iter().map(|source| source.used).sum(),
            usage.len(),
        )
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn space_is_bounded_after_each_compaction_and_so_is_what_is_copied(
        size in 100..4000_usize,
        // What a build takes beside its pages.
        overhead in prop_oneof![Just(0_u64), Just(100 << 10), Just(1 << 20)],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut row = Row { units: vec![None; size], ..Row::default() };
        for step in &steps {
            row.pause(step, overhead);
            if !step.time {
                continue;
            }
            row.compact(overhead);
            let (stored, live, sources) = row.space();
            prop_assert!(
                stored <= live + live / LIVE_PER_DEAD + SPARE + overhead,
                "{stored} bytes for {live} live ones after {} builds", row.number
            );
            prop_assert!(sources <= MANY + 1, "{sources} sources");
        }
        // Five for each byte that dies, one when the build itself is made again, and one for each time that the number
        // of builds grows by the factor that merging them makes.
        prop_assert!(row.copied <= 10 * row.changed, "{} copied for {} changed", row.copied, row.changed);
    }
}
