//! Kernel modules: the drivers of the virtual devices.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::error::{Attempt as _, Failure};

/// Loads every file of `dir` in the order of their names, which is the order of what needs what.
pub(crate) fn load(dir: &str) -> Result<(), Failure> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).attempt(|| format!("list {dir}"))? {
        paths.push(entry.attempt(|| format!("list {dir}"))?.path());
    }
    paths.sort();
    paths.iter().try_for_each(|path| load_one(path))
}

fn load_one(path: &Path) -> Result<(), Failure> {
    let file = File::open(path).attempt(|| format!("open {}", path.display()))?;
    match finit_module(&file, c"", 0) {
        // EEXIST: this kernel has it built in or loaded already.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(why) => Err(Failure::new(format!("load the module {}", path.display()), why)),
    }
}
