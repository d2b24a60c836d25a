//! Embeds the two programs that run inside the guest, and the library that its VMM is started with.
//!
//! They are built first by `cargo xtask`, which names their directory in `COLDFRAME_GUEST_DIR`.
//! Without it (an editor, `cargo clippy`) the binary is built without them and says so when it needs them.

use std::io::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-env-changed=COLDFRAME_GUEST_DIR");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let guest = std::env::var_os("COLDFRAME_GUEST_DIR").map(PathBuf::from);
    // Every supervisor needs the library. The programs are needed when a template is made, and are half of the binary.
    for (name, compressed) in [("envd", true), ("guest-init", true), ("libuffd_preload.so", false)] {
        let program = guest.as_ref().map(|dir| read(&dir.join(name))).unwrap_or_default();
        let embedded = if compressed && !program.is_empty() { compress(&program) } else { program };
        std::fs::write(out.join(name), embedded).expect("OUT_DIR is writable");
    }
}

fn read(program: &Path) -> Vec<u8> {
    println!("cargo:rerun-if-changed={}", program.display());
    std::fs::read(program).unwrap_or_else(|error| {
        panic!("reading the guest program {}: {error}; `cargo xtask up` builds it", program.display())
    })
}

fn compress(program: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(program).and_then(|()| encoder.finish()).expect("memory is writable")
}
