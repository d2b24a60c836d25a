//! Names that a power cut must not take away.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Makes the names of directories durable, and those of the directories that they are in, whoever made them and however
/// that ended: what is synced in a directory whose own name is lost is lost. Mount points were there before.
///
/// # Errors
/// When one of them cannot be opened or synced.
pub(crate) fn keep_names(dirs: &[&Path]) -> io::Result<()> {
    let mut parents = BTreeSet::new();
    for dir in dirs {
        let mut ancestors = dir.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).peekable();
        let Some(parent) = ancestors.peek() else { continue };
        let device = std::fs::metadata(parent)?.dev();
        for parent in ancestors {
            if std::fs::metadata(parent)?.dev() != device {
                break;
            }
            parents.insert(parent);
        }
    }
    parents.into_iter().try_for_each(|parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_cannot_be_kept_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        keep_names(&[&inner, directory.path(), Path::new("/"), Path::new("relative")]).unwrap();
        assert!(keep_names(&[&inner, &directory.path().join("missing/c")]).is_err());
    }
}
