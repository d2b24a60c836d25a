//! Kernels of other state directories.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::dirs::Dirs;
use crate::error::TemplateError;
use crate::publish;

/// Copies a kernel and an initramfs that were made for another state directory into this one, unless they are here. They are
/// named after what is in them, and keep their names.
///
/// # Errors
/// When they are none, or cannot be copied.
pub fn adopt_kernel(dirs: &Dirs, kernel: &Path, initrd: &Path) -> Result<(PathBuf, PathBuf), String> {
    let text = |error: TemplateError| error.to_string();
    let (Some(from), Some(file), Some(initrd_file)) =
        (kernel.parent(), kernel.file_name(), initrd.file_name())
    else {
        return Err(format!("{} is no kernel in a directory of its own", kernel.display()));
    };
    let name = from.file_name().ok_or_else(|| format!("{} has no name", from.display()))?;
    let cache = dirs.cache();
    fs::create_dir_all(&cache).map_err(|error| format!("making {}: {error}", cache.display()))?;
    publish::public_dir(&dirs.kernels()).map_err(text)?;
    let _lock = publish::lock(dirs).map_err(text)?;
    let to = dirs.kernels().join(name);
    let failed = |path: &Path, error: &io::Error| format!("copying {}: {error}", path.display());
    if !to.join(file).exists() {
        let staging = publish::staging(dirs).map_err(text)?;
        let made = staging.path().join("kernel");
        publish::public_dir(&made).map_err(text)?;
        // What it is, and what its initramfs were made of; they themselves and its symbols come when somebody needs them.
        for entry in fs::read_dir(from).map_err(|error| failed(from, &error))? {
            let path = entry.map_err(|error| failed(from, &error))?.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if !matches!(extension, Some("cpio" | "debug")) {
                copy(&path, &made.join(path.file_name().unwrap_or_default()))
                    .map_err(|error| failed(&path, &error))?;
            }
        }
        publish::publish(&made, &to).map_err(text)?;
    }
    let initrd_to = to.join(initrd_file);
    if !initrd_to.exists() {
        let staging = publish::staging(dirs).map_err(text)?;
        let made = staging.path().join("initramfs");
        copy(initrd, &made).map_err(|error| failed(initrd, &error))?;
        publish::publish(&made, &initrd_to).map_err(text)?;
    }
    Ok((to.join(file), initrd_to))
}

/// Copies a file, or a directory with everything in it, durably.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        fs::copy(from, to)?;
        return fs::File::open(to)?.sync_all();
    }
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy(&entry.path(), &to.join(entry.file_name()))?;
    }
    fs::File::open(to)?.sync_all()
}
