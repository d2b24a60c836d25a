//! The file that an upload goes to. All of this blocks.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::StatusCode;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::error::HttpError;
use crate::filesystem::{Owner, ensure_dirs, replace_metadata};

/// Files of at least this many bytes have their room reserved before they are written.
const RESERVED: u64 = 1 << 20;

/// Unit of `st_blocks`, in bytes (inode(7)).
const BLOCK: u64 = 512;

/// Magic number of tmpfs (statfs(2)).
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// What is to be written where.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The file.
    pub(super) path: PathBuf,
    /// Whom it and new directories belong to.
    pub(super) owner: Owner,
    /// What to attach to it.
    pub(super) metadata: BTreeMap<String, String>,
    /// How many bytes the client says it sends, when that is how many will be written.
    pub(super) announced: Option<u64>,
}

/// A file that is being written. It is written in place: an upload that ends early leaves what has come so far, and
/// links, permissions and open descriptors of the file stay what they are.
#[derive(Debug)]
pub(super) struct Target {
    file: File,
    plan: Plan,
    /// Bytes handed to the kernel, or tried to.
    attempted: u64,
    /// Whether there may be room reserved beyond the end of the file.
    reserved: bool,
}

impl Target {
    /// Makes missing directories and opens the file, empty, for its new owner.
    ///
    /// # Errors
    ///
    /// 507 when there is no room, 400 for paths that cannot be a file, 500 for everything else.
    pub(super) fn open(plan: Plan) -> Result<Self, HttpError> {
        let path = plan.path.as_path();
        if let Some(parent) = path.parent() {
            ensure_dirs(parent, plan.owner).map_err(|error| failure("make directories for", path, &error))?;
        }
        let existing = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(HttpError::bad_request(format!("path is a directory: {}", path.display())));
            }
            Ok(metadata) if !metadata.is_file() => {
                return Err(HttpError::bad_request(format!(
                    "path is not a regular file: {}",
                    path.display()
                )));
            }
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failure("look at", path, &error)),
        };
        let reusable = existing.as_ref().map_or(0, |metadata| metadata.blocks().saturating_mul(BLOCK));
        check_room(&plan, reusable)?;
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            // Should somebody put a pipe here meanwhile, we must not wait for its reader.
            .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
            .open(path)
            .map_err(|error| match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC | Errno::DQUOT) => no_room("not enough inodes available"),
                _ => failure("open", path, &error),
            })?;
        // Nobody reads half of the new contents as the old owner: the owner changes before anything is written.
        give(&file, plan.owner).map_err(|error| failure("change the owner of", path, &error))?;
        if existing.is_some() {
            file.set_len(0).map_err(|error| failure("empty", path, &error))?;
        }
        let mut target = Self { file, plan, attempted: 0, reserved: false };
        target.reserve()?;
        Ok(target)
    }

    /// Takes the room for all of a large file at once, where the file system can do that: finding a place for each page
    /// is a good part of the work of writing.
    fn reserve(&mut self) -> Result<(), HttpError> {
        let Some(length) = self.plan.announced.filter(|length| *length >= RESERVED) else { return Ok(()) };
        // Memory takes its room by being cleared, which would be done twice then.
        if rustix::fs::fstatfs(&self.file).is_ok_and(|status| status.f_type == TMPFS) {
            return Ok(());
        }
        self.reserved = true;
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, length) {
            Err(Errno::NOSPC | Errno::DQUOT) => Err(no_space(length)),
            // Where it cannot be reserved, it is found on the way.
            _ => Ok(()),
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    ///
    /// 507 when there is no room, 500 for everything else.
    pub(super) fn write(&mut self, batch: &[Bytes]) -> Result<(), HttpError> {
        self.attempted += batch.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        write_all(&mut self.file, batch).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC | Errno::DQUOT) => no_space(self.plan.announced.unwrap_or(self.attempted)),
                _ => failure("write", &self.plan.path, &error),
            }
        })
    }

    /// Attaches the metadata and lets go of the file.
    ///
    /// # Errors
    ///
    /// 507 when there is no room for the metadata, 500 for everything else.
    pub(super) fn finish(mut self) -> Result<(), HttpError> {
        // All that was announced has come, or else the request would have failed.
        self.reserved = false;
        replace_metadata(&self.file, &self.plan.metadata).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::NOSPC | Errno::DQUOT) => no_room("not enough disk space available for metadata"),
                _ => failure("attach metadata to", &self.plan.path, &error),
            }
        })
    }
}

impl Drop for Target {
    /// Gives back what was reserved for bytes that did not come.
    fn drop(&mut self) {
        if self.reserved
            && let Ok(metadata) = self.file.metadata()
        {
            // Nobody is left to hear of a failure.
            let _ = self.file.set_len(metadata.len());
        }
    }
}

/// Refuses what cannot fit before any of it has been sent. File systems that do not count blocks are tried.
fn check_room(plan: &Plan, reusable: u64) -> Result<(), HttpError> {
    let (Some(announced), Some(parent)) = (plan.announced, plan.path.parent()) else { return Ok(()) };
    let Ok(status) = rustix::fs::statvfs(parent) else { return Ok(()) };
    // Root may use what is reserved for root, so what is free counts, not what is available.
    let free = status.f_bfree.saturating_mul(status.f_frsize).saturating_add(reusable);
    if status.f_blocks > 0 && announced > free { Err(no_space(announced)) } else { Ok(()) }
}

/// Changes the owner. On file systems that have none it is enough that it is right already.
pub(super) fn give(file: &File, owner: Owner) -> io::Result<()> {
    let changed = std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid));
    changed.or_else(|error| {
        let metadata = file.metadata()?;
        if (metadata.uid(), metadata.gid()) == (owner.uid, owner.gid) { Ok(()) } else { Err(error) }
    })
}

fn write_all(file: &mut File, batch: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut slices = slices.as_mut_slice();
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn no_room(message: &str) -> HttpError {
    HttpError::new(StatusCode::INSUFFICIENT_STORAGE, message)
}

/// Clients look at this text.
fn no_space(bytes: u64) -> HttpError {
    no_room(&format!("attempted to write {bytes} bytes: not enough disk space available"))
}

/// What a client hears of an error of the kernel: `what` was attempted on `path`.
pub(super) fn failure(what: &str, path: &Path, error: &io::Error) -> HttpError {
    let message = format!("cannot {what} '{}': {error}", path.display());
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => no_room(&format!("not enough disk space available: {message}")),
        Some(Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::NXIO) => {
            HttpError::bad_request(message)
        }
        Some(Errno::FBIG) => HttpError::new(StatusCode::PAYLOAD_TOO_LARGE, message),
        _ if error.kind() == io::ErrorKind::InvalidInput => HttpError::bad_request(message),
        _ => HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, message),
    }
}
