//! Who pays for what.

use std::collections::{BTreeMap, BTreeSet};

use model::BuildId;
use serde::Serialize;

use super::builds::{Builds, reach};
use super::holders::{Holder, Kind};
use super::needed::Needed;

/// One holder; sizes in bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct HolderLine {
    pub(super) kind: Kind,
    pub(super) name: String,
    /// How many builds it reads from.
    pub(super) builds: usize,
    /// What these take together.
    pub(super) reads: u64,
    /// What of that no holder needs.
    pub(super) dead: u64,
    /// What would be gone if this holder were.
    pub(super) frees: u64,
}

/// One build; sizes in bytes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct BuildLine {
    pub(super) build: BuildId,
    pub(super) bytes: u64,
    /// What of that no holder needs.
    pub(super) dead: u64,
    /// Who needs some of it.
    pub(super) holders: Vec<String>,
}

/// The answer; sizes in bytes.
#[derive(Debug, Serialize)]
pub(super) struct Account {
    pub(super) total: u64,
    /// What no holder needs.
    pub(super) dead: u64,
    pub(super) holders: Vec<HolderLine>,
    /// Those with the most dead bytes first.
    pub(super) builds: Vec<BuildLine>,
}

impl Account {
    pub(super) fn of(builds: &Builds, holders: &[Holder], needed: &Needed) -> Self {
        let reached: Vec<_> = holders.iter().map(|holder| reach(builds, &holder.builds)).collect();
        let mut readers: BTreeMap<&BuildId, Vec<&Holder>> = BTreeMap::new();
        for (holder, reached) in holders.iter().zip(&reached) {
            for build in reached {
                readers.entry(build).or_default().push(holder);
            }
        }
        let held: BTreeSet<&BuildId> = holders
            .iter()
            .filter(|holder| holder.kind != Kind::Nobody)
            .flat_map(|holder| &holder.builds)
            .collect();
        let bytes = |build: &BuildId| builds.get(build).map_or(0, |stored| stored.bytes);
        // Of a build that is only read from, nothing but pages is ever looked at again.
        let dead = |build: &BuildId| {
            let of = |stored: &super::builds::Stored| {
                if held.contains(build) { stored.data } else { stored.bytes }
            };
            builds.get(build).map_or(0, of).saturating_sub(needed.of(build))
        };
        let sum = |reached: &BTreeSet<BuildId>, of: &dyn Fn(&BuildId) -> u64| reached.iter().map(of).sum();
        let alone = |build: &BuildId| {
            let one = readers.get(build).is_some_and(|readers| readers.len() == 1);
            if one { bytes(build) } else { 0 }
        };
        let lines = holders.iter().zip(&reached).map(|(holder, reached)| HolderLine {
            kind: holder.kind,
            name: holder.name.clone(),
            builds: reached.len(),
            reads: sum(reached, &bytes),
            dead: sum(reached, &dead),
            frees: sum(reached, &alone),
        });
        let mut lines_of_builds: Vec<BuildLine> = builds
            .keys()
            .map(|build| BuildLine {
                build: build.clone(),
                bytes: bytes(build),
                dead: dead(build),
                holders: readers.get(build).map_or_else(Vec::new, |readers| {
                    let some = readers.iter().filter(|holder| holder.kind != Kind::Nobody);
                    some.map(|holder| holder.name.clone()).collect()
                }),
            })
            .collect();
        lines_of_builds.sort_by_key(|line| std::cmp::Reverse(line.dead));
        Self {
            total: builds.values().map(|stored| stored.bytes).sum(),
            dead: lines_of_builds.iter().map(|line| line.dead).sum(),
            holders: lines.collect(),
            builds: lines_of_builds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::builds::Stored;
    use super::*;

    fn id(name: &str) -> BuildId {
        name.parse().unwrap()
    }

    fn stored(bytes: u64, reads: &[&str]) -> Stored {
        Stored {
            bytes,
            data: bytes / 2,
            reads: reads.iter().map(|name| id(name)).collect(),
            ..Stored::default()
        }
    }

    fn holder(name: &str, held: &[&str]) -> Holder {
        let builds = held.iter().map(|name| id(name)).collect();
        Holder { kind: Kind::Paused, name: name.into(), builds }
    }

    #[test]
    fn what_others_read_too_is_not_freed() {
        let builds = Builds::from([
            (id("base"), stored(1000, &["base"])),
            (id("one"), stored(10, &["base", "one"])),
            (id("two"), stored(200, &["base", "two"])),
            // What the second was made of is of no use to it.
            (id("three"), stored(3, &["two", "three", "lost"])),
        ]);
        let holders = [holder("a", &["one"]), holder("b", &["three"]), holder("c", &["one", "gone"])];
        let account = Account::of(&builds, &holders, &Needed::default());
        let lines: Vec<_> = account.holders.iter().map(|l| (&*l.name, l.builds, l.reads, l.frees)).collect();
        assert_eq!(lines, [("a", 2, 1010, 0), ("b", 2, 203, 203), ("c", 2, 1010, 0)]);
        assert_eq!(account.total, 1213);
        let alone = Account::of(&builds, &holders[..1], &Needed::default());
        assert_eq!(alone.holders[0].frees, 1010);
    }

    #[test]
    fn what_nobody_needs_is_dead_and_of_a_source_all_but_its_pages() {
        let builds =
            Builds::from([(id("old"), stored(1000, &["old"])), (id("new"), stored(100, &["old", "new"]))]);
        let account = Account::of(&builds, &[holder("a", &["new"])], &Needed::default());
        let lines: Vec<_> =
            account.builds.iter().map(|l| (l.build.as_str(), l.bytes, l.dead, &*l.holders[0])).collect();
        assert_eq!(lines, [("old", 1000, 1000, "a"), ("new", 100, 50, "a")]);
        assert_eq!((account.dead, account.holders[0].dead), (1050, 1050));
    }
}
