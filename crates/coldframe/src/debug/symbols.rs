//! The symbols of a kernel.
//!
//! | | where |
//! |---|---|
//! | 1 | the file that somebody names |
//! | 2 | beside the kernel |
//! | 3 | the Debian package that was made together with the kernel, which is kept beside it |
//!
//! Whatever is found has to have the kernel's build id: with the symbols of another one gdb would show what is not there.

use std::path::{Path, PathBuf};

use template::{Dirs, existing_symbols, fetch_symbols};

use super::kernel::Kernel;
use crate::progress::Terminal;
use crate::state::StateDir;

/// A file with symbols, and why that one.
#[derive(Debug)]
pub(super) struct Symbols {
    pub(super) path: PathBuf,
    pub(super) origin: &'static str,
}

pub(super) fn find(named: Option<&Path>, state: &StateDir, kernel: &Kernel) -> Result<Symbols, String> {
    if let Some(path) = named {
        return fitting(path.to_owned(), "named by --gdb-symbols", kernel);
    }
    if let Some(path) = existing_symbols(&kernel.path) {
        return fitting(path, "beside the kernel", kernel);
    }
    let fetched = fetch_symbols(&Dirs::new(state.root()), &kernel.path, &Terminal::new());
    let path = fetched.map_err(|error| format!("{error}; --gdb-symbols names a file that you have"))?;
    fitting(path, "from Debian's package", kernel)
}

fn fitting(path: PathBuf, origin: &'static str, kernel: &Kernel) -> Result<Symbols, String> {
    let found = Kernel::read(&path)?;
    if found.build_id != kernel.build_id {
        return Err(format!(
            "{} has the symbols of another kernel: its build id is {}, that of {} is {}",
            path.display(),
            found.build_id,
            kernel.path.display(),
            kernel.build_id
        ));
    }
    if !found.has_symbols {
        return Err(format!("{} is the right kernel, without debug symbols", path.display()));
    }
    Ok(Symbols { path, origin })
}
