//! Small files by which programs find out where they are. All of this blocks.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: &str = "run/e2b";
/// The variables that are written, each to a hidden file of its name.
const NAMES: [&str; 3] = ["E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID"];

/// Writes those that there are.
///
/// # Errors
/// What the file system says.
pub(super) fn write(root: &Path, variables: &BTreeMap<String, String>) -> io::Result<()> {
    let directory = root.join(DIRECTORY);
    std::fs::create_dir_all(&directory)?;
    for (name, value) in NAMES.iter().filter_map(|name| Some((name, variables.get(*name)?))) {
        let path = directory.join(format!(".{name}"));
        let _ = std::fs::remove_file(&path);
        std::fs::write(&path, value)?;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        let read = |name: &str| std::fs::read_to_string(root.path().join(DIRECTORY).join(name)).ok();
        let mut variables = BTreeMap::from([("E2B_SANDBOX".to_owned(), "true".to_owned())]);
        write(root.path(), &variables).unwrap();
        variables.insert("E2B_SANDBOX_ID".to_owned(), "a".to_owned());
        write(root.path(), &variables).unwrap();
        variables.insert("E2B_SANDBOX_ID".to_owned(), "b".to_owned());
        variables.insert("PRIVATE".to_owned(), "x".to_owned());
        write(root.path(), &variables).unwrap();
        assert_eq!(read(".E2B_SANDBOX").as_deref(), Some("true"));
        assert_eq!(read(".E2B_SANDBOX_ID").as_deref(), Some("b"));
        assert_eq!((read(".E2B_TEMPLATE_ID"), read(".PRIVATE")), (None, None));
    }
}
