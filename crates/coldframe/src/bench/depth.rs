//! `coldframe bench depth`: what it takes to open an image, to find a page and to read what a guest needs first, at the end
//! of a long row of pauses, against the end of a row of one.
//!
//! A row is made in a store of its own: every pause writes pages, most of them in a place that is always written to, and
//! then there is time for compaction, as a node does it. What the builds take on the disk is shown beside one full image.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use artifacts::{ArtifactError, Compaction, Image, LocalStore, Store};
use build::{ObjectKind, PAGE_BYTES, PageSink, Pages, data_object_bytes};
use model::BuildId;

use super::image::{self, PAGE};
use super::report::{Samples, bar};

/// The depths that are looked at.
const MARKS: [usize; 5] = [1, 10, 100, 1000, 2000];
/// What a pause writes, in pages.
const WRITTEN: usize = 256;
/// Pages that are written to again and again: three of four writes go there.
const HOT: u64 = 2048;
/// What is read at once of these: a guest that wakes up needs them first.
const PIECE: u64 = 32;
/// How often everything is measured at each depth.
const ROUNDS: usize = 25;
const LOOKUPS: u64 = 100_000;
/// So much more or less than at the first pause is flat.
const FLAT: f64 = 0.2;
/// The most that may be stored, for one full image, beside one difference.
const MOST_STORED: f64 = 1.3;

pub(crate) fn run(dir: Option<&Path>, size: u64, depth: usize) -> Result<(), String> {
    let parent = dir.map_or_else(std::env::temp_dir, Path::to_owned);
    let dir = tempfile::Builder::new()
        .prefix("coldframe-bench-")
        .tempdir_in(&parent)
        .map_err(|error| format!("{}: {error}", parent.display()))?;
    let pages = (size << 20) / PAGE_BYTES;
    if pages < 4 * HOT {
        return Err(format!("an image of at least {} MiB is needed", (4 * HOT * PAGE_BYTES) >> 20));
    }
    println!("image    {size} MiB in {}, {WRITTEN} pages written by each pause", dir.path().display());
    let failed = |error: ArtifactError| format!("a row of builds in {}: {error}", dir.path().display());
    let mut row = Row::begin(dir.path(), pages).map_err(failed)?;
    let mut first: Option<Measured> = None;
    for mark in MARKS.into_iter().filter(|mark| *mark <= depth) {
        while row.depth < mark {
            row.pause().map_err(failed)?;
            row.compact().map_err(failed)?;
        }
        let measured = row.measure().map_err(failed)?;
        measured.print(mark, first.as_ref());
        row.print_space().map_err(failed)?;
        first.get_or_insert(measured);
    }
    Ok(())
}

/// Builds, each a pause after the one before.
struct Row {
    store: LocalStore,
    pages: u64,
    depth: usize,
    template: BuildId,
    last: BuildId,
    numbers: Numbers,
    written: u64,
    copied: u64,
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

impl Row {
    /// A template that has every page of the image.
    fn begin(dir: &Path, pages: u64) -> Result<Self, ArtifactError> {
        let store = LocalStore::open(&dir.join("store"))?;
        let template = BuildId::random();
        image::publish(&store, &template, None, pages, |writer| {
            (0..pages).try_for_each(|page| writer.data(page, &content(page)))
        })?;
        let last = template.clone();
        Ok(Self { store, pages, depth: 0, template, last, numbers: Numbers(1), written: 0, copied: 0 })
    }

    fn pause(&mut self) -> Result<(), ArtifactError> {
        let mut changed = BTreeSet::new();
        while changed.len() < WRITTEN {
            let hot = self.numbers.below(4) != 0;
            changed.insert(if hot {
                self.pages / 2 + self.numbers.below(HOT)
            } else {
                self.numbers.below(self.pages)
            });
        }
        let parent = Arc::new(Image::open(&self.store, &self.last, ObjectKind::Memory)?);
        let build = BuildId::random();
        let salt = self.pages * (self.depth as u64 + 1);
        image::publish(&self.store, &build, Some(parent), self.pages, |writer| {
            changed.iter().try_for_each(|page| writer.data(*page, &content(page + salt)))
        })?;
        self.last = build;
        self.depth += 1;
        self.written += data_object_bytes(WRITTEN as u64);
        self.collect()
    }

    /// What a node does when there is time.
    fn compact(&mut self) -> Result<(), ArtifactError> {
        let usage = artifacts::usage(&self.store, &self.last)?;
        let without = artifacts::plan(&self.last, &usage, |build| *build != self.template);
        if without.is_empty() {
            return Ok(());
        }
        let into = BuildId::random();
        let (store, from) = (&self.store, &self.last);
        let made = Compaction { store, from, into: &into, without: &without, wanted: &|| true }.run()?;
        if let artifacts::Compacted::Published { copied } = made {
            self.copied += copied;
        }
        self.last = into;
        self.collect()
    }

    /// Deletes what nobody needs.
    fn collect(&self) -> Result<(), ArtifactError> {
        let manifest = artifacts::load_manifest(&self.store, &self.last)?;
        let mut needed = artifacts::sources(&self.store, &manifest)?;
        needed.extend([self.template.clone(), self.last.clone()]);
        let builds = self.store.list()?;
        builds.iter().filter(|build| !needed.contains(*build)).try_for_each(|build| self.store.remove(build))
    }

    fn measure(&mut self) -> Result<Measured, ArtifactError> {
        let mut measured = Measured::default();
        let mut buffer = vec![0; usize::try_from(PIECE).unwrap_or_default() * PAGE];
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let image = Image::open(&self.store, &self.last, ObjectKind::Memory)?;
            measured.open.push(begun.elapsed());

            let begun = Instant::now();
            for _ in 0..LOOKUPS {
                black_box(image.locate(self.numbers.below(self.pages)));
            }
            measured.lookup.push(begun.elapsed());

            let begun = Instant::now();
            for piece in 0..HOT / PIECE {
                image.read(self.pages / 2 + piece * PIECE, &mut buffer)?;
            }
            measured.read.push(begun.elapsed());
            measured.sources = image.header().sources().len();
            measured.extents = image.header().extents().len();
        }
        Ok(measured)
    }

    fn print_space(&self) -> Result<(), ArtifactError> {
        let image = Image::open(&self.store, &self.last, ObjectKind::Memory)?;
        let full = data_object_bytes(image.header().stored_pages());
        let difference = data_object_bytes(WRITTEN as u64);
        let mut stored = 0_u64;
        for build in self.store.list()?.iter().filter(|build| **build != self.template) {
            stored += artifacts::stored_bytes(&self.store, build)?;
        }
        let most = ratio(full, 1) * MOST_STORED + ratio(difference, 1);
        let holds = ratio(stored, 1) <= most;
        bar("  stored beside the template", ratio(stored, full), "x image", holds, "<= 1.3 + diff");
        println!("  {:<32} {:>9.2} x written", "copied by compaction", ratio(self.copied, self.written));
        Ok(())
    }
}

#[allow(clippy::cast_precision_loss, reason = "a ratio")]
fn ratio(of: u64, to: u64) -> f64 {
    of as f64 / to.max(1) as f64
}

/// A page that differs from every other.
fn content(number: u64) -> Vec<u8> {
    image::word(number).to_le_bytes().repeat(PAGE / 8)
}

/// What was measured at one depth.
#[derive(Default)]
struct Measured {
    open: Samples,
    /// So many lookups at once.
    lookup: Samples,
    read: Samples,
    sources: usize,
    extents: usize,
}

impl Measured {
    fn print(&self, depth: usize, first: Option<&Self>) {
        println!("depth {depth}: {} sources, {} extents", self.sources, self.extents);
        self.open.print_micros("  open");
        self.lookup.print_micros("  100,000 lookups");
        self.read.print_micros("  read 8 MiB of a working set");
        let Some(first) = first else { return };
        let lookup = self.lookup.ratio(&first.lookup);
        bar("  lookup", lookup, "x first", lookup <= 1.0 + FLAT, "<= 1.20 x");
        // Every source is a file to open. What that is of a resume, a resume tells.
        let more = self.open.p50_ms() - first.open.p50_ms();
        println!("  {:<32} {more:>9.2} ms more than the first at p50", "open");
        println!("  {:<32} {:>9.2} x first", "read", self.read.ratio(&first.read));
    }
}
