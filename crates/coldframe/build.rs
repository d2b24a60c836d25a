//! Embeds the two programs that run inside the guest, and the library that its VMM is started with.
//!
//! They are built first by `cargo xtask`, which names their directory in `COLDFRAME_GUEST_DIR`.
//! Without it (an editor, `cargo clippy`) the binary is built without them and says so when it needs them.

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=COLDFRAME_GUEST_DIR");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let guest = std::env::var_os("COLDFRAME_GUEST_DIR").map(PathBuf::from);
    for name in ["envd", "guest-init", "libuffd_preload.so"] {
        let embedded = out.join(name);
        match &guest {
            Some(dir) => copy(&dir.join(name), &embedded),
            None => std::fs::write(&embedded, []).expect("OUT_DIR is writable"),
        }
    }
}

fn copy(from: &Path, to: &Path) {
    println!("cargo:rerun-if-changed={}", from.display());
    if let Err(error) = std::fs::copy(from, to) {
        panic!("copying the guest program {}: {error}; `cargo xtask up` builds it", from.display());
    }
}
