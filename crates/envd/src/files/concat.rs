//! Files become one. All of this blocks.
//!
//! ```text
//!  look at all sources -> temporary file beside the destination: owner, then contents -> rename -> remove the sources
//! ```
//!
//! Whatever fails before the rename leaves the destination and the sources as they were, and no temporary file. Contents
//! do not pass through this process where the kernel can copy them itself (`copy_file_range`).

use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use http::StatusCode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::target::{failure, give, no_room};
use crate::error::HttpError;
use crate::filesystem::{Owner, ensure_dirs};

/// Longest name of a file, in bytes (pathconf(3)).
const MAX_NAME: usize = 255;

/// What becomes what.
#[derive(Debug)]
pub(super) struct Composition {
    /// In this order.
    pub(super) sources: Vec<PathBuf>,
    pub(super) destination: PathBuf,
    /// Whom the destination and new directories belong to.
    pub(super) owner: Owner,
}

/// Makes one file of several.
///
/// # Errors
///
/// 404 for a source that does not exist, 400 for one that is not a regular file or is the destination, 507 when there is
/// no room, 500 for everything else.
pub(super) fn concatenate(composition: &Composition) -> Result<(), HttpError> {
    let Composition { sources, destination, owner } = composition;
    let replaced = replaced(destination)?;
    for source in sources {
        check(source, replaced.as_ref(), destination)?;
    }
    if let Some(parent) = destination.parent() {
        ensure_dirs(parent, *owner).map_err(|error| failure("make directories for", destination, &error))?;
    }
    let temporary = Temporary::create(destination, *owner)?;
    for source in sources {
        temporary.append(source)?;
    }
    temporary.replace(destination)?;
    for source in sources {
        // The file that was asked for is there; one that cannot be removed, or is in the list twice, changes nothing.
        let _ = std::fs::remove_file(source);
    }
    Ok(())
}

/// What is at the destination now.
fn replaced(destination: &Path) -> Result<Option<Metadata>, HttpError> {
    if destination.file_name().is_none() || destination.as_os_str().as_bytes().ends_with(b"/") {
        return Err(HttpError::bad_request(format!(
            "destination is no name of a file: {}",
            destination.display()
        )));
    }
    match std::fs::metadata(destination) {
        Ok(metadata) if metadata.is_dir() => {
            Err(HttpError::bad_request(format!("destination is a directory: {}", destination.display())))
        }
        Ok(metadata) => Ok(Some(metadata)),
        // Also a link that leads nowhere, which is replaced then.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failure("look at", destination, &error)),
    }
}

fn check(source: &Path, replaced: Option<&Metadata>, destination: &Path) -> Result<(), HttpError> {
    let metadata = std::fs::metadata(source).map_err(|error| unreadable(source, &error))?;
    check_kind(source, &metadata)?;
    // By what it is and not by how it is written: it would be removed after it was replaced.
    let same = |other: &Metadata| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino());
    if source == destination || replaced.is_some_and(same) {
        let text = format!("source path '{}' cannot be the same as destination", source.display());
        return Err(HttpError::bad_request(text));
    }
    Ok(())
}

fn check_kind(source: &Path, metadata: &Metadata) -> Result<(), HttpError> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(HttpError::bad_request(format!("source path is not a regular file: {}", source.display())))
}

fn unreadable(source: &Path, error: &io::Error) -> HttpError {
    if error.kind() == io::ErrorKind::NotFound {
        return HttpError::new(StatusCode::NOT_FOUND, format!("source file not found: {}", source.display()));
    }
    failure("read", source, error)
}

/// The file that becomes the destination. Until then it goes away with this.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: Option<PathBuf>,
}

impl Temporary {
    fn create(destination: &Path, owner: Owner) -> Result<Self, HttpError> {
        let path = beside(destination).map_err(|error| failure("name a file beside", destination, &error))?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&path)
            .map_err(|error| storage(&error).unwrap_or_else(|| failure("create", &path, &error)))?;
        let temporary = Self { file, path: Some(path) };
        give(&temporary.file, owner).map_err(|error| failure("change the owner of", destination, &error))?;
        Ok(temporary)
    }

    fn append(&self, source: &Path) -> Result<(), HttpError> {
        // It may be another file than the one that was looked at, and we must not wait for the writer of a pipe.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
            .open(source)
            .map_err(|error| unreadable(source, &error))?;
        let metadata = file.metadata().map_err(|error| unreadable(source, &error))?;
        check_kind(source, &metadata)?;
        io::copy(&mut &file, &mut &self.file)
            .map(drop)
            .map_err(|error| storage(&error).unwrap_or_else(|| failure("compose", source, &error)))
    }

    fn replace(mut self, destination: &Path) -> Result<(), HttpError> {
        let Some(path) = self.path.take() else { return Ok(()) };
        std::fs::rename(&path, destination).map_err(|error| {
            self.path = Some(path);
            failure("replace", destination, &error)
        })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Nobody is left to hear of a failure.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// `NAME.e2b-compose.RANDOM.tmp`, with as much of the name as fits.
fn beside(destination: &Path) -> io::Result<PathBuf> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    let suffix = format!(".e2b-compose.{:032x}.tmp", u128::from_le_bytes(bytes));
    let name = destination.file_name().unwrap_or_default().as_bytes();
    let mut name = name[..name.len().min(MAX_NAME - suffix.len())].to_vec();
    name.extend_from_slice(suffix.as_bytes());
    Ok(destination.with_file_name(OsString::from_vec(name)))
}

/// Clients look for this text.
fn storage(error: &io::Error) -> Option<HttpError> {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Some(no_room("not enough disk space available")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_temporary_file_is_beside_the_destination_however_long_its_name_is() {
        for length in [1, 200, MAX_NAME] {
            let destination = Path::new("/d").join("x".repeat(length));
            let path = beside(&destination).unwrap();
            assert_eq!(path.parent(), Some(Path::new("/d")));
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(
                name.len() <= MAX_NAME && name.contains(".e2b-compose.") && name.ends_with(".tmp"),
                "{name}"
            );
            assert_ne!(beside(&destination).unwrap(), path);
        }
    }

    #[test]
    fn a_temporary_file_that_is_not_used_goes_away() {
        let directory = tempfile::tempdir().unwrap();
        let destination = directory.path().join("x");
        let owner =
            Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
        let temporary = Temporary::create(&destination, owner).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(temporary);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
