//! Where builds live: the store, and what reads and writes builds in it.
//!
//! A build is made in a private directory ([`Staged`]), page by page ([`ImageWriter`]), and appears under its name
//! complete and durable, or not at all. From then on it never changes. [`Image`] reads one lazily and verifies every page:
//! what was lost is an error that names the object and the place, never zeros.
//!
//! How a build becomes durable: every file is synced, then the directory that names them, then it is renamed, then the
//! store's directory is synced. Only after that is publication reported.
#![forbid(unsafe_code)]

mod compaction;
mod copy;
mod difference;
mod durable;
mod error;
mod image;
mod local;
mod plan;
#[cfg(test)]
mod power_cut;
mod staged;
mod store;
mod usage;
mod verify;
mod writer;

pub use compaction::{Compacted, Compaction};
pub use copy::Copying;
pub use difference::{Difference, Differing, How, difference};
pub use error::{ArtifactError, is_loss};
pub use image::{Image, check, load_header, sources};
pub use local::LocalStore;
pub use plan::{FEW, LIVE_PER_DEAD, MANY, SPARE, plan};
pub use staged::Staged;
pub use store::{MAX_BLOB_BYTES, Object, Store, load_blob, load_manifest};
pub use usage::{Usage, stored_bytes, usage};
pub use verify::verify;
pub use writer::ImageWriter;
