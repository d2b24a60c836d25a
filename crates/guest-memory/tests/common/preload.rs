//! The real preload library.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Builds it once, where this test was built. Cargo runs a test in the directory of its package; where that was when the test
/// was compiled says nothing, when checkouts share what is compiled.
pub(crate) fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        // target/PROFILE/deps/test
        let target = test.ancestors().nth(3).unwrap();
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "uffd-preload", "--target-dir"])
            .arg(target)
            .status()
            .unwrap();
        assert!(status.success(), "building the preload library");
        target.join("debug/libuffd_preload.so")
    })
}
