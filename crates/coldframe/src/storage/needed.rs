//! Which pages of each build somebody needs.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

use artifacts::{ArtifactError, LocalStore};
use build::{ObjectKind, data_object_bytes};
use model::BuildId;

use super::holders::{Holder, Kind};

/// Pages, one bit for each.
#[derive(Debug, Default)]
struct Pages(Vec<u64>);

impl Pages {
    fn insert(&mut self, pages: Range<usize>) {
        let words = pages.end.div_ceil(64);
        if self.0.len() < words {
            self.0.resize(words, 0);
        }
        for (number, word) in self.0.iter_mut().enumerate().take(words).skip(pages.start / 64) {
            let (first, end) = (number * 64, number * 64 + 64);
            // Those below the start, and those from the end on, are left out.
            let below = pages.start.saturating_sub(first);
            let above = end.saturating_sub(pages.end);
            *word |= u64::MAX >> above & u64::MAX << below;
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// What is needed of the data objects of builds.
#[derive(Debug, Default)]
pub(super) struct Needed(HashMap<BuildId, [Pages; 2]>);

impl Needed {
    /// How many bytes, with the checksums of the pages.
    pub(super) fn of(&self, build: &BuildId) -> u64 {
        self.0.get(build).map_or(0, |images| data_object_bytes(images.iter().map(Pages::count).sum()))
    }

    fn add(&mut self, store: &LocalStore, build: &BuildId) -> Result<(), ArtifactError> {
        for (number, kind) in [ObjectKind::Memory, ObjectKind::Disk].into_iter().enumerate() {
            let header = match artifacts::load_header(store, build, kind) {
                Ok(header) => header,
                Err(ArtifactError::Missing { .. }) => continue,
                Err(error) => return Err(error),
            };
            for extent in header.extents() {
                let images = self.0.entry(header.sources()[extent.source].build.clone()).or_default();
                let narrow = |page: u64| usize::try_from(page).unwrap_or(usize::MAX);
                images[number].insert(narrow(extent.at)..narrow(extent.at + extent.pages));
            }
        }
        Ok(())
    }
}

/// What those need who hold builds. One that cannot be read needs nothing.
pub(super) fn by(store: &Path, holders: &[Holder]) -> Result<Needed, String> {
    let store = LocalStore::open(store).map_err(|error| error.to_string())?;
    let held = holders.iter().filter(|holder| holder.kind != Kind::Nobody);
    let held: BTreeSet<&BuildId> = held.flat_map(|holder| &holder.builds).collect();
    let mut needed = Needed::default();
    for build in held {
        if let Err(error) = needed.add(&store, build) {
            eprintln!("coldframe: build {build} counts as needing nothing: {error}");
        }
    }
    Ok(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_counts_once() {
        let mut pages = Pages::default();
        for (range, count) in
            [(3..4, 1), (0..64, 64), (60..70, 70), (200..200, 70), (127..129, 72), (0..300, 300)]
        {
            pages.insert(range.clone());
            assert_eq!(pages.count(), count, "{range:?}");
        }
    }
}
