//! Where things are.

use std::path::{Path, PathBuf};

/// The checkout.
pub(crate) fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What is kept between runs and checkouts: tools, SDKs, templates of the tests, the KVM host in a box.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("COLDFRAME_CACHE").map_or_else(|| PathBuf::from("/var/cache/coldframe"), PathBuf::from)
}

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// Where the static programs of the guest are built.
pub(crate) fn guest_programs() -> PathBuf {
    target().join(crate::build::GUEST_TARGET).join("guest")
}

/// The one binary.
pub(crate) fn coldframe() -> PathBuf {
    target().join("release/coldframe")
}
