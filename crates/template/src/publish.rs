//! Things that appear complete or not at all, and survive a power cut once they have.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::dirs::Dirs;
use crate::error::{At as _, TemplateError};

/// Where something is made before it is moved to its place; gone with everything in it when dropped. Left over by a
/// crash, it is removed by the next one who holds the lock.
pub(crate) const STAGING_PREFIX: &str = "staging-";

/// A private directory on the file system of the state directory.
pub(crate) fn staging(dirs: &Dirs) -> Result<TempDir, TemplateError> {
    let cache = dirs.cache();
    tempfile::Builder::new().prefix(STAGING_PREFIX).tempdir_in(&cache).at("make a directory in", &cache)
}

/// Removes what crashed runs left. Only for the holder of the lock.
pub(crate) fn remove_leftovers(dirs: &Dirs) -> Result<(), TemplateError> {
    let cache = dirs.cache();
    for entry in fs::read_dir(&cache).at("list", &cache)? {
        let entry = entry.at("list", &cache)?;
        if entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
            fs::remove_dir_all(entry.path()).at("remove", &entry.path())?;
        }
    }
    Ok(())
}

/// One maker at a time, also among processes: the others wait, and then find everything made.
pub(crate) fn lock(dirs: &Dirs) -> Result<File, TemplateError> {
    let path = dirs.cache().join("template.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).at("open", &path)?;
    file.lock().at("lock", &path)?;
    Ok(file)
}

/// Makes a directory that programs of other users may pass through: the VMM reads kernels as nobody.
pub(crate) fn public_dir(path: &Path) -> Result<(), TemplateError> {
    fs::create_dir_all(path).at("make", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).at("set the mode of", path)
}

/// Writes a file that everybody may read, with its content on disk.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), TemplateError> {
    let written = || {
        let mut file = File::create(path)?;
        file.write_all(content)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()
    };
    written().at("write", path)
}

/// Moves a finished file or directory to its place and makes the move durable. One that is already there was made from
/// the same inputs and is replaced.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<(), TemplateError> {
    sync_dir(from).at("sync", from)?;
    if to.is_dir() {
        fs::remove_dir_all(to).at("remove", to)?;
    }
    fs::rename(from, to).at("move a finished file to", to)?;
    let parent = to.parent().unwrap_or(to);
    sync_dir(parent).at("sync", parent)
}

/// Replaces a small file as a whole.
pub(crate) fn replace(dirs: &Dirs, path: &Path, content: &[u8]) -> Result<(), TemplateError> {
    let staging = staging(dirs)?;
    let new = staging.path().join("new");
    write(&new, content)?;
    publish(&new, path)
}

/// Makes the names in a directory durable; for a file, its content.
fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
