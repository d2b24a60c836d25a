//! What became of the files of a disk.
//!
//! Both file systems are walked side by side and every file that both have is read: a header knows which pages differ, but
//! only the file system knows whose they are. Guests write file systems, and names in them, so all is bounded and nothing
//! is printed as it is.

use std::collections::BTreeMap;
use std::fmt;

use artifacts::Image;
use build::{PAGE_BYTES, Pages};
use ext4_view::{Ext4, Ext4Error, FileType, Metadata, PathBuf};
use serde::Serialize;

use super::ext4;

/// More files than a disk of some terabytes has by default.
const MAX_FILES: usize = 16 << 20;
/// No path that a guest can use is longer; a directory that contains itself would never end.
const MAX_PATH: usize = 4096;
/// So much of two files is compared at once.
const AT_ONCE: usize = 1 << 20;

/// A file that is not the same in both.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct FileChange {
    /// Where it is, with escapes for what is not printable.
    path: String,
    change: Change,
    /// Its size in the second one, or in the first where it is removed.
    bytes: u64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Change {
    Added,
    Removed,
    /// What of it is another.
    Changed(Vec<&'static str>),
}

impl fmt::Display for FileChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, change, bytes } = self;
        let bytes = crate::storage::size(*bytes);
        match change {
            Change::Added => write!(f, "  + {path} ({bytes})"),
            Change::Removed => write!(f, "  - {path} ({bytes})"),
            Change::Changed(what) => write!(f, "  M {path} ({bytes}): {}", what.join(", ")),
        }
    }
}

/// Compares the files of two disks, in the order of their paths.
pub(super) fn compare(from: Image, to: Image) -> Result<Vec<FileChange>, String> {
    // A file may be larger than the disk, if most of it is a hole; what is read is never more than some disks.
    let budget = (from.pages() + to.pages()).saturating_mul(2 * PAGE_BYTES);
    let mut walk = Walk { from: ext4::open(from)?, to: ext4::open(to)?, budget, seen: 0, found: Vec::new() };
    let mut directories = vec![(PathBuf::new("/"), true, true)];
    while let Some((directory, was, is)) = directories.pop() {
        walk.directory(&directory, was, is, &mut directories)?;
    }
    walk.found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(walk.found)
}

struct Walk {
    from: Ext4,
    to: Ext4,
    /// Bytes that may still be read.
    budget: u64,
    seen: usize,
    found: Vec<FileChange>,
}

impl Walk {
    /// A directory that is in one of them, or in both.
    fn directory(
        &mut self,
        directory: &PathBuf,
        was: bool,
        is: bool,
        below: &mut Vec<(PathBuf, bool, bool)>,
    ) -> Result<(), String> {
        let mut entries: BTreeMap<Vec<u8>, [Option<Metadata>; 2]> = BTreeMap::new();
        for (side, file_system, there) in [(0, &self.from, was), (1, &self.to, is)] {
            if there {
                for (name, metadata) in list(file_system, directory).map_err(at(directory))? {
                    entries.entry(name).or_default()[side] = Some(metadata);
                }
            }
        }
        self.seen += entries.len();
        if self.seen > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files"));
        }
        for (name, [was, is]) in entries {
            let path = directory.join(name.as_slice());
            if path.as_ref().len() > MAX_PATH {
                return Err(format!("{}: a path of more than {MAX_PATH} bytes", shown(&path)));
            }
            if let Some(change) = self.change(&path, was.as_ref(), is.as_ref())? {
                let bytes = is.as_ref().or(was.as_ref()).map_or(0, Metadata::len);
                self.found.push(FileChange { path: shown(&path), change, bytes });
            }
            let [was, is] = [was, is].map(|metadata| metadata.is_some_and(|metadata| metadata.is_dir()));
            if was || is {
                below.push((path, was, is));
            }
        }
        Ok(())
    }

    fn change(
        &mut self,
        path: &PathBuf,
        was: Option<&Metadata>,
        is: Option<&Metadata>,
    ) -> Result<Option<Change>, String> {
        let (was, is) = match (was, is) {
            (None, None) => return Ok(None),
            (None, Some(_)) => return Ok(Some(Change::Added)),
            (Some(_), None) => return Ok(Some(Change::Removed)),
            (Some(was), Some(is)) => (was, is),
        };
        let mut what = Vec::new();
        if was.file_type() != is.file_type() {
            what.push("type");
        } else if !self.same_content(path, was, is).map_err(at(path))? {
            what.push("content");
        }
        if was.mode() & 0o7777 != is.mode() & 0o7777 {
            what.push("mode");
        }
        if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
            what.push("owner");
        }
        Ok((!what.is_empty()).then_some(Change::Changed(what)))
    }

    fn same_content(&mut self, path: &PathBuf, was: &Metadata, is: &Metadata) -> Result<bool, Failure> {
        match was.file_type() {
            FileType::Symlink => Ok(self.from.read_link(path)? == self.to.read_link(path)?),
            FileType::Regular if was.len() == is.len() => {
                self.budget = self.budget.checked_sub(was.len()).ok_or(Failure::TooMuch)?;
                let mut files = [self.from.open(path)?, self.to.open(path)?];
                let mut buffers = [vec![0; AT_ONCE], vec![0; AT_ONCE]];
                loop {
                    let mut lengths = [0; 2];
                    for ((file, buffer), length) in files.iter_mut().zip(&mut buffers).zip(&mut lengths) {
                        *length = fill(file, buffer)?;
                    }
                    if buffers[0][..lengths[0]] != buffers[1][..lengths[1]] {
                        return Ok(false);
                    }
                    if lengths[0] < AT_ONCE {
                        return Ok(true);
                    }
                }
            }
            FileType::Regular => Ok(false),
            // What is in a directory is told by itself; the others have no content.
            _ => Ok(true),
        }
    }
}

enum Failure {
    Ext4(Ext4Error),
    TooMuch,
}

impl From<Ext4Error> for Failure {
    fn from(error: Ext4Error) -> Self {
        Self::Ext4(error)
    }
}

/// Says where it happened.
fn at<E: Into<Failure>>(path: &PathBuf) -> impl Fn(E) -> String {
    let path = shown(path);
    move |error| match error.into() {
        Failure::Ext4(error) => format!("{path}: {error}"),
        Failure::TooMuch => {
            format!("{path}: the files before it and it have more bytes than both disks twice")
        }
    }
}

/// The names in a directory, without itself and what it is in.
fn list(file_system: &Ext4, directory: &PathBuf) -> Result<Vec<(Vec<u8>, Metadata)>, Ext4Error> {
    let mut found = Vec::new();
    for entry in file_system.read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != "." && name != ".." {
            found.push((name.as_ref().to_vec(), entry.metadata()?));
        }
    }
    Ok(found)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut ext4_view::File, buffer: &mut [u8]) -> Result<usize, Ext4Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_bytes(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn shown(path: &PathBuf) -> String {
    path.display().to_string().escape_debug().to_string()
}
