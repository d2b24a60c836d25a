//! Which kernel it is.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::Object as _;
use object::read::ReadCache;

/// A kernel or its symbols, as an ELF file.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) path: PathBuf,
    /// The same in a kernel and in its symbols, and in no others; in hexadecimal.
    pub(super) build_id: String,
    pub(super) has_symbols: bool,
}

impl Kernel {
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
        let file = File::open(path).map_err(|error| failed(&error))?;
        let cache = ReadCache::new(file);
        let elf = object::File::parse(&cache).map_err(|error| failed(&error))?;
        let build_id = elf.build_id().map_err(|error| failed(&error))?;
        let build_id = build_id.ok_or_else(|| failed(&"it has no build id"))?;
        let build_id = build_id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), build_id, has_symbols: elf.has_debug_symbols() })
    }
}
