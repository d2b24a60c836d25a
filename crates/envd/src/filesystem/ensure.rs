//! Making a directory with its missing parents, for a user.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::owner::Owner;

/// Makes every missing directory on the way to `path`, the last one included, readable by all and owned by `owner`.
/// What exists is left as it is; others may do the same at the same time.
///
/// # Errors
///
/// When a component exists and is not a directory, or cannot be made.
pub(crate) fn ensure_dirs(path: &Path, owner: Owner) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = Vec::new();
    for ancestor in path.ancestors() {
        match std::fs::metadata(ancestor) {
            Ok(metadata) if metadata.is_dir() => break,
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing.push(ancestor.to_owned()),
            Err(error) => return Err(error),
        }
    }
    for directory in missing.iter().rev() {
        match std::fs::DirBuilder::new().mode(0o755).create(directory) {
            // Not through a link that somebody may have put there meanwhile.
            Ok(()) => std::os::unix::fs::lchown(directory, Some(owner.uid), Some(owner.gid))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !std::fs::metadata(directory)?.is_dir() {
                    return Err(io::ErrorKind::NotADirectory.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const OWNER: Owner = Owner { uid: 1234, gid: 4321 };

    #[test]
    fn only_new_directories_change_hands() {
        let root = std::env::temp_dir().join(format!("envd-ensure-{}", std::process::id()));
        std::fs::create_dir(&root).unwrap();
        let before = std::fs::metadata(&root).unwrap();
        ensure_dirs(&root.join("a/b/../c"), OWNER).unwrap();
        for made in ["a", "a/b", "a/c"] {
            let metadata = std::fs::metadata(root.join(made)).unwrap();
            assert_eq!(
                (metadata.uid(), metadata.gid(), metadata.mode() & 0o777),
                (1234, 4321, 0o755),
                "{made}"
            );
        }
        assert_eq!(std::fs::metadata(&root).unwrap().uid(), before.uid());
        ensure_dirs(&root.join("a/b"), OWNER).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        for taken in ["file", "file/below"] {
            let error = ensure_dirs(&root.join(taken), OWNER).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotADirectory, "{taken}");
        }
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn many_at_once_agree() {
        let root = std::env::temp_dir().join(format!("envd-ensure-many-{}", std::process::id()));
        let path = root.join("a/b/c/d/e");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| ensure_dirs(&path, OWNER).unwrap());
            }
        });
        assert!(path.is_dir());
        std::fs::remove_dir_all(&root).unwrap();
    }
}
