//! Opening a file to read it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use http::StatusCode;
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::contents::{PIECE, read_up_to};
use crate::error::HttpError;

/// Bytes that tell what kind of file it is.
const HEAD: usize = 512;

/// Bytes to try first when a file claims to be empty, as those in proc do.
const UNKNOWN: usize = 4096;

/// Magic numbers (statfs(2)) of file systems whose files are made while they are read: their sizes mean nothing.
const MADE_WHILE_READ: [u64; 9] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6367_7270, // cgroup2
    0x0027_e0eb, // cgroup
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x6265_6570, // configfs
    0x7363_6673, // securityfs
    0x6165_676c, // pstore
];

/// What was found at a path.
#[derive(Debug)]
pub(super) struct Opened {
    /// The file, read as far as `first` goes, or not at all.
    pub(super) file: File,
    /// Last change, in seconds since 1970.
    pub(super) modified: i64,
    /// How much there is.
    pub(super) extent: Extent,
}

/// How much of a file there is, and what has been read of it.
#[derive(Debug)]
pub(super) enum Extent {
    /// This is all.
    All(Vec<u8>),
    /// So many bytes, none of which have been read; the first ones are these.
    Sized {
        /// Bytes.
        size: u64,
        /// First ones.
        head: Vec<u8>,
    },
    /// These, and then more until there is no more.
    Endless(Vec<u8>),
}

/// Opens a file. A small one, and one whose size is not to be trusted, is read at once as far as a piece goes.
///
/// # Errors
///
/// 404 when there is nothing, 400 when it is no file, 403 or 500 when it cannot be opened or read.
pub(super) fn open(path: &Path) -> Result<Opened, HttpError> {
    let failed = |error: io::Error| failure(path, &error);
    // A pipe without a writer must not hold us up before we see what it is.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(HttpError::bad_request(format!("path '{}' is a directory", path.display())));
    }
    if !metadata.is_file() {
        return Err(HttpError::bad_request(format!("path '{}' is not a regular file", path.display())));
    }
    let size = metadata.size();
    let extent = if size > PIECE as u64 && !is_made_while_read(&file) {
        let mut head = vec![0; HEAD];
        let length = file.read_at(&mut head, 0).map_err(failed)?;
        head.truncate(length);
        // The file is read once, from start to end; nothing is lost when the kernel does not want to know.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Extent::Sized { size, head }
    } else {
        // One byte more than there should be shows the end without another call.
        let expected = usize::try_from(size).unwrap_or(PIECE).clamp(UNKNOWN, PIECE) + 1;
        let mut first = Vec::new();
        read_up_to(&file, &mut first, expected).map_err(failed)?;
        if first.len() == expected {
            read_up_to(&file, &mut first, PIECE + 1).map_err(failed)?;
        }
        if first.len() <= PIECE { Extent::All(first) } else { Extent::Endless(first) }
    };
    Ok(Opened { file, modified: metadata.mtime(), extent })
}

fn is_made_while_read(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|status| {
        let kind = status.f_type.cast_unsigned() & 0xffff_ffff;
        MADE_WHILE_READ.contains(&kind)
    })
}

fn failure(path: &Path, error: &io::Error) -> HttpError {
    let shown = path.display();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => {
            HttpError::new(StatusCode::NOT_FOUND, format!("path '{shown}' does not exist"))
        }
        Some(Errno::LOOP | Errno::NAMETOOLONG | Errno::NXIO | Errno::NODEV) => {
            HttpError::bad_request(format!("cannot open '{shown}': {error}"))
        }
        Some(Errno::ACCESS | Errno::PERM) => {
            HttpError::new(StatusCode::FORBIDDEN, format!("cannot open '{shown}': {error}"))
        }
        _ if error.kind() == io::ErrorKind::InvalidInput => {
            HttpError::bad_request(format!("cannot open '{shown}': {error}"))
        }
        _ => HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("cannot read '{shown}': {error}")),
    }
}
