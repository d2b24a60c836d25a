//! Kernel modules: the drivers of the virtual devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::error::{Attempt as _, Failure};

/// The files of one directory of the initramfs, open: they can be loaded after the root has changed.
pub(crate) struct Modules(Vec<(PathBuf, File)>);

impl Modules {
    /// Opens every file of `dir`, in the order of their names, which is the order of what needs what.
    pub(crate) fn open(dir: &str) -> Result<Self, Failure> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).attempt(|| format!("list {dir}"))? {
            paths.push(entry.attempt(|| format!("list {dir}"))?.path());
        }
        paths.sort();
        let opened = paths.into_iter().map(|path| {
            let file = File::open(&path).attempt(|| format!("open {}", path.display()))?;
            Ok((path, file))
        });
        opened.collect::<Result<_, _>>().map(Self)
    }

    /// Loads them, and with each the devices that it drives.
    pub(crate) fn load(&self) -> Result<(), Failure> {
        self.0.iter().try_for_each(|(path, file)| load_one(path, file))
    }
}

fn load_one(path: &Path, file: &File) -> Result<(), Failure> {
    match finit_module(file, c"", 0) {
        // EEXIST: this kernel has it built in or loaded already.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(why) => Err(Failure::new(format!("load the module {}", path.display()), why)),
    }
}
