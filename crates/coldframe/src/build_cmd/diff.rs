//! `coldframe build diff`: what is not the same in two builds, by pages and, of their disks, by files.

use std::process::ExitCode;

use artifacts::{Difference, How, Image, LocalStore, Store, difference, load_manifest};
use build::{ObjectKind, Pages};
use model::BuildId;
use serde::Serialize;

use super::files::{self, FileChange};
use super::{names, range, size};
use crate::Outcome;
use crate::cli::Diff;
use crate::state::StateDir;

#[derive(Serialize)]
struct Compared {
    from: BuildId,
    to: BuildId,
    images: Vec<Changes>,
    /// What became of files; `None` when it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<FileChange>>,
}

/// What differs in one image, in pages of 4096 bytes.
#[derive(Serialize)]
struct Changes {
    kind: ObjectKind,
    /// The size of the second one.
    pages: u64,
    changed: u64,
    appeared: u64,
    vanished: u64,
    /// The same, although each has it in another place.
    stored_twice: u64,
    pieces: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<Range>,
}

#[derive(Serialize)]
struct Range {
    first: u64,
    pages: u64,
    how: &'static str,
}

pub(super) fn run(options: &Diff) -> Outcome {
    let state = StateDir::open(&options.state.dir)?;
    let store = LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
    let [from, to] = [&options.from, &options.to].map(|name| names::find(&state, &store, name));
    let (from, to) = (from?, to?);
    let mut images = Vec::new();
    for kind in [ObjectKind::Memory, ObjectKind::Disk] {
        let (was, is) = (open(&store, &from, kind)?, open(&store, &to, kind)?);
        let (Some(was), Some(is)) = (was, is) else { continue };
        let found = difference(&was, &is).map_err(|error| error.to_string())?;
        images.push(changes(kind, is.pages(), &found, options.ranges));
    }
    let files = if options.files {
        let disk = |build| Image::open(&store, build, ObjectKind::Disk).map_err(|error| error.to_string());
        Some(files::compare(disk(&from)?, disk(&to)?)?)
    } else {
        None
    };
    let compared = Compared { from, to, images, files };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&compared).map_err(|error| error.to_string())?);
    } else {
        print(&compared);
    }
    Ok(ExitCode::SUCCESS)
}

/// An image of a build; `None` when it has none of this kind.
fn open(store: &dyn Store, build: &BuildId, kind: ObjectKind) -> Result<Option<Image>, String> {
    let manifest = load_manifest(store, build).map_err(|error| error.to_string())?;
    if kind == ObjectKind::Memory && manifest.memory.is_none() {
        return Ok(None);
    }
    Image::open(store, build, kind).map(Some).map_err(|error| error.to_string())
}

fn changes(kind: ObjectKind, pages: u64, found: &Difference, with_ranges: bool) -> Changes {
    let ranges = found.ranges.iter().filter(|_| with_ranges);
    let ranges = ranges.map(|range| Range { first: range.first, pages: range.pages, how: name(range.how) });
    Changes {
        kind,
        pages,
        changed: found.pages(How::Changed),
        appeared: found.pages(How::Appeared),
        vanished: found.pages(How::Vanished),
        stored_twice: found.stored_twice,
        pieces: found.ranges.len(),
        ranges: ranges.collect(),
    }
}

const fn name(how: How) -> &'static str {
    match how {
        How::Changed => "changed",
        How::Appeared => "appeared",
        How::Vanished => "vanished",
    }
}

fn print(compared: &Compared) {
    println!("from {} to {}", compared.from, compared.to);
    for Changes { kind, pages, changed, appeared, vanished, stored_twice, pieces, ranges } in &compared.images
    {
        println!(
            "{kind}: {} of {} differ, in {pieces} pieces: {} changed, {} appeared, {} vanished; {} stored twice",
            size(changed + appeared + vanished),
            size(*pages),
            size(*changed),
            size(*appeared),
            size(*vanished),
            size(*stored_twice)
        );
        for Range { first, pages, how } in ranges {
            println!("  {:<31} {how}", range(*first, *pages));
        }
    }
    for change in compared.files.iter().flatten() {
        println!("{change}");
    }
}
