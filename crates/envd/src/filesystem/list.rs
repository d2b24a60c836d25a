//! What is below a directory.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::Entry;
use super::error::FsError;
use super::names::Names;

/// Most entries in one answer. Half a million are some hundred megabytes of JSON: more than a client can want at once,
/// and more memory than this daemon may take from the guest.
const MAX_ENTRIES: usize = 500_000;

/// The entries below a directory, down to `depth` levels (0 means 1), each directory before its contents, names in
/// byte order. A link is followed for `root` only. What vanishes meanwhile is left out.
///
/// # Errors
///
/// When `root` is not a directory or cannot be read, or when there are too many entries.
pub(crate) fn list(root: &Path, depth: u32, names: &Names) -> Result<Vec<Entry>, FsError> {
    match std::fs::metadata(root) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => {
            return Err(FsError::InvalidArgument(format!("path is not a directory: {}", root.display())));
        }
        Err(error) => return Err(FsError::of("list", root, &error)),
    }
    let depth = depth.max(1) as usize;
    let mut entries = Vec::new();
    // One sorted listing for each level on the way down. Trees can be deeper than a stack.
    let mut levels = vec![level(root).map_err(|error| FsError::of("list", root, &error))?];
    while let Some(current) = levels.last_mut() {
        let Some(name) = current.names.next() else {
            levels.pop();
            continue;
        };
        let path = current.directory.join(name);
        let entry = match Entry::read(&path, names) {
            Ok(entry) => entry,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(FsError::of("look at", &path, &error)),
        };
        if entries.len() == MAX_ENTRIES {
            return Err(FsError::ResourceExhausted(format!(
                "more than {MAX_ENTRIES} entries below '{}': list it in parts",
                root.display()
            )));
        }
        let descend = entry.symlink_target.is_none()
            && entry.kind == super::entry::EntryKind::Directory
            && levels.len() < depth;
        entries.push(entry);
        if descend {
            match level(&path) {
                Ok(next) => levels.push(next),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(FsError::of("list", &path, &error)),
            }
        }
    }
    Ok(entries)
}

struct Level {
    directory: PathBuf,
    names: std::vec::IntoIter<OsString>,
}

fn level(directory: &Path) -> io::Result<Level> {
    let mut names = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .take(MAX_ENTRIES + 1)
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(Level { directory: directory.to_owned(), names: names.into_iter() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_order_and_links() {
        let root = std::env::temp_dir().join(format!("envd-list-{}", std::process::id()));
        std::fs::create_dir_all(root.join("b/c/d")).unwrap();
        std::fs::write(root.join("a"), "x").unwrap();
        std::fs::write(root.join("b/z"), "x").unwrap();
        std::os::unix::fs::symlink(root.join("b"), root.join("link")).unwrap();
        let below = |at: &Path, depth| {
            list(at, depth, &Names::default())
                .unwrap()
                .into_iter()
                .map(|entry| entry.path.strip_prefix(&format!("{}/", at.display())).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(below(&root, 0), ["a", "b", "link"]);
        assert_eq!(below(&root, 1), ["a", "b", "link"]);
        assert_eq!(below(&root, 2), ["a", "b", "b/c", "b/z", "link"]);
        assert_eq!(below(&root, u32::MAX), ["a", "b", "b/c", "b/c/d", "b/z", "link"]);
        assert_eq!(below(&root.join("link"), 1), ["c", "z"]);
        assert!(matches!(list(&root.join("a"), 1, &Names::default()), Err(FsError::InvalidArgument(_))));
        assert!(matches!(list(&root.join("no"), 1, &Names::default()), Err(FsError::NotFound(_))));
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        assert!(matches!(
            list(&root.join("loop"), 1, &Names::default()),
            Err(FsError::FailedPrecondition(_))
        ));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
