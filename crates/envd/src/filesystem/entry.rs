//! What there is to say about one file or directory.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::metadata;
use super::names::Names;
use super::permissions::permission_text;

/// The kinds that clients tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: a device, a socket, a pipe, a link that leads nowhere.
    Other,
}

impl EntryKind {
    fn of(metadata: &std::fs::Metadata) -> Self {
        if metadata.is_file() {
            Self::File
        } else if metadata.is_dir() {
            Self::Directory
        } else {
            Self::Other
        }
    }
}

/// A file or directory. Of a symbolic link, kind and mode are those of what it leads to and everything else is its own:
/// that is what clients of this protocol expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Last component of the path.
    pub(crate) name: String,
    /// The path it was asked for by.
    pub(crate) path: String,
    /// Kind.
    pub(crate) kind: EntryKind,
    /// Bytes.
    pub(crate) size: u64,
    /// The nine permission bits.
    pub(crate) mode: u32,
    /// Permissions as text.
    pub(crate) permissions: String,
    /// Name or number of the owner.
    pub(crate) owner: String,
    /// Name or number of the group.
    pub(crate) group: String,
    /// Last change of the contents: seconds since 1970 and nanoseconds.
    pub(crate) modified: (i64, u32),
    /// Where a symbolic link leads in the end; the link's own path when it leads nowhere.
    pub(crate) symlink_target: Option<String>,
    /// What clients attached.
    pub(crate) metadata: BTreeMap<String, String>,
}

impl Entry {
    /// Looks at a path.
    ///
    /// # Errors
    ///
    /// When there is nothing at the path or it cannot be looked at. A link that leads nowhere is not an error.
    pub(crate) fn read(path: &Path, names: &Names) -> io::Result<Self> {
        let own = std::fs::symlink_metadata(path)?;
        let (reached, symlink_target) = if own.is_symlink() {
            match std::fs::canonicalize(path) {
                Ok(target) => (std::fs::metadata(&target).ok(), Some(target.to_string_lossy().into_owned())),
                Err(_) => (None, Some(path.to_string_lossy().into_owned())),
            }
        } else {
            (Some(own.clone()), None)
        };
        let kind = reached.as_ref().map_or(EntryKind::Other, EntryKind::of);
        Ok(Self {
            name: base_name(path),
            path: path.to_string_lossy().into_owned(),
            kind,
            size: own.size(),
            mode: reached.as_ref().unwrap_or(&own).mode() & 0o777,
            permissions: permission_text(own.mode()),
            owner: names.user(own.uid()),
            group: names.group(own.gid()),
            modified: (own.mtime(), u32::try_from(own.mtime_nsec()).unwrap_or_default()),
            symlink_target,
            // Other kinds cannot have any (xattr(7)).
            metadata: if kind == EntryKind::Other { BTreeMap::new() } else { metadata::read(path) },
        })
    }
}

/// The last component, as it was written: `..` stays `..`, and the root is `/`.
fn base_name(path: &Path) -> String {
    let text = path.to_string_lossy();
    match text.trim_end_matches('/').rsplit('/').next() {
        Some("") | None => "/".to_owned(),
        Some(name) => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_names() {
        for (path, expected) in
            [("/", "/"), ("//", "/"), ("/a", "a"), ("/a/b/", "b"), ("/a/..", ".."), ("/a/b c", "b c")]
        {
            assert_eq!(base_name(Path::new(path)), expected);
        }
    }
}
