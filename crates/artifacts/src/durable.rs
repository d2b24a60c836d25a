//! The calls that decide what survives a power cut, behind a seam: tests watch their order and make them fail.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// What makes files and their names durable.
pub(crate) trait Durable: Send + Sync {
    /// Returns when the content of `file`, which is `path`, is on stable storage.
    fn sync_file(&self, file: &File, path: &Path) -> io::Result<()>;

    /// Returns when the names in the directory `path` are on stable storage.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Gives a directory another name, which no other may have unless it is empty.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// The kernel.
pub(crate) struct Kernel;

impl Durable for Kernel {
    fn sync_file(&self, file: &File, _: &Path) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }
}
