//! Making, moving and removing.

use std::io;
use std::path::{Path, PathBuf};

use super::ensure::ensure_dirs;
use super::entry::Entry;
use super::error::FsError;
use super::names::Names;
use super::owner::Owner;

/// Makes a directory with its missing parents.
///
/// # Errors
///
/// When something is there already, or it cannot be made.
pub(crate) fn make_dir(path: &Path, owner: Owner) -> Result<Entry, FsError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            return Err(FsError::AlreadyExists(format!("directory already exists: {}", path.display())));
        }
        Ok(_) => {
            return Err(FsError::InvalidArgument(format!(
                "path already exists but it is not a directory: {}",
                path.display()
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(FsError::of("make directory", path, &error)),
    }
    ensure_dirs(path, owner).map_err(|error| FsError::of("make directory", path, &error))?;
    stat(path)
}

/// Renames, over what is at the destination if that is a file, and makes missing parents of the destination.
///
/// # Errors
///
/// When there is nothing to move or the kernel refuses, as it does across file systems.
pub(crate) fn rename(source: &Path, destination: &Path, owner: Owner) -> Result<Entry, FsError> {
    std::fs::symlink_metadata(source).map_err(|error| FsError::of("move", source, &error))?;
    if let Some(parent) = destination.parent() {
        ensure_dirs(parent, owner).map_err(|error| FsError::of("make directory", parent, &error))?;
    }
    std::fs::rename(source, destination).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => FsError::of("move", source, &error),
        _ => FsError::Internal(format!(
            "cannot move '{}' to '{}': {error}",
            source.display(),
            destination.display()
        )),
    })?;
    stat(destination)
}

/// Removes whatever is at a path, directories with all that is in them. Nothing there is fine.
///
/// # Errors
///
/// When the kernel refuses, or when asked to remove everything there is.
pub(crate) fn remove(path: &Path) -> Result<(), FsError> {
    // With a slash at its end, a link would stand for the directory it leads to.
    let path: &Path = &path.components().collect::<PathBuf>();
    let outcome = match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            // The only file system there is: nobody means this, and nothing would run afterwards.
            if std::fs::canonicalize(path).is_ok_and(|path| path == Path::new("/")) {
                return Err(FsError::InvalidArgument("refusing to remove the root directory".to_owned()));
            }
            std::fs::remove_dir_all(path)
        }
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|error| FsError::of("remove", path, &error)),
    }
}

/// Looks at a path.
///
/// # Errors
///
/// When nothing is there or it cannot be looked at.
pub(crate) fn stat(path: &Path) -> Result<Entry, FsError> {
    Entry::read(path, &Names::load()).map_err(|error| FsError::of("look at", path, &error))
}
