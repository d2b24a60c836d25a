//! Where things are.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The checkout. Cargo says which one when it runs this program: checkouts that share a target directory share the program
/// too, and it may have been built in another one.
pub(crate) fn repository() -> &'static Path {
    static REPOSITORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let package =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&package).join("..")
    });
    &REPOSITORY
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
