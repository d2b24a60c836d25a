//! `coldframe build`: what builds hold and what becomes of them, without a server and beside one.

mod copy;
mod create;
mod diff;
mod ext4;
mod files;
mod image;
mod inspect;
mod machine;
mod names;
mod port;
mod process;
mod resume;
mod workbench;

use crate::Outcome;
use crate::cli::Build;

pub(crate) fn run(command: &Build) -> Outcome {
    match command {
        Build::Inspect(options) => inspect::run(options),
        Build::Diff(options) => diff::run(options),
        Build::Create(options) => create::run(options),
        Build::Copy(options) => copy::run(options),
        Build::Resume(options) => resume::run(options),
        Build::Unpack { layer, dir, limit } => image::unpack(layer, dir, *limit),
        Build::Keep { state, place } => crate::workshop::keep(&state.dir, place.number),
    }
}

/// Bytes from one address to another, as debuggers write them.
fn range(first: u64, pages: u64) -> String {
    let (from, to) = (first * build::PAGE_BYTES, (first + pages) * build::PAGE_BYTES);
    format!("0x{from:x}-0x{to:x}")
}

/// A number of pages as bytes for people.
fn size(pages: u64) -> String {
    crate::storage::size(pages * build::PAGE_BYTES)
}
