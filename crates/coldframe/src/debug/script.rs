//! What gdb is told first.

use std::io::{self, Write as _};
use std::path::Path;

use tempfile::NamedTempFile;

/// Commands for the kernel that guests run.
const MACROS: &str = include_str!("fc-debug.gdb");
/// Seconds that gdb waits for an answer. A machine that stands still answers at once, but its memory may still have to come
/// from somewhere.
const PATIENCE: u32 = 120;

/// A private file that is gone with this value.
#[derive(Debug)]
pub(super) struct Script(NamedTempFile);

impl Script {
    /// Writes it into `directory`, all of it or none. gdb keeps in `cache` what it found out about symbols.
    pub(super) fn write(
        directory: &Path,
        cache: &Path,
        symbols: &Path,
        socket: &Path,
        macros: Option<&str>,
    ) -> io::Result<Self> {
        let macros = macros.unwrap_or(MACROS);
        let text = format!(
            "set pagination off\n\
             set confirm off\n\
             set architecture i386:x86-64\n\
             set remotetimeout {PATIENCE}\n\
             set print thread-events off\n\
             # What it finds out about so many symbols takes it some seconds each time.\n\
             set index-cache directory {}\n\
             set index-cache enabled on\n\
             {macros}\n\
             # The kernel is booted from its ELF file. What would move it to a random place is the code that unpacks a\n\
             # compressed one, which never runs: its symbols are where it was linked.\n\
             symbol-file -o 0 {}\n\
             target remote {}\n",
            word(cache)?,
            quoted(symbols)?,
            word(socket)?,
        );
        let mut file = tempfile::Builder::new().prefix("coldframe-").suffix(".gdb").tempfile_in(directory)?;
        file.write_all(text.as_bytes())?;
        // Closing tells nobody that the disk is full; this does.
        file.as_file().sync_all()?;
        Ok(Self(file))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// A path as an argument among others.
fn quoted(path: &Path) -> io::Result<String> {
    Ok(format!("\"{}\"", word(path)?))
}

/// A path as the rest of a line, which is taken as it is.
fn word(path: &Path) -> io::Result<&str> {
    let text = path.to_str().filter(|text| !text.contains(['\n', '"', '\\']));
    text.ok_or_else(|| io::Error::other(format!("gdb cannot be told of {}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn it_is_private_and_gone_with_its_session() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let [cache, symbols, socket] = ["/cache", "/symbols", "/socket"].map(Path::new);
        let script = Script::write(directory.path(), cache, symbols, socket, None).unwrap();
        let path = script.path().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("symbol-file -o 0 \"/symbols\"\ntarget remote /socket\n"), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(script);
        assert!(!path.exists());
    }

    #[test]
    fn on_a_full_disk_there_is_none_rather_than_half_of_one() {
        use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
        let directory = tempfile::tempdir().unwrap();
        let [cache, symbols, socket] = ["/cache", "/symbols", "/socket"].map(Path::new);
        // One page, for a script that needs more.
        let (options, macros) = (c"size=4k,nr_inodes=8", "# \n".repeat(4096));
        mount("none", directory.path(), "tmpfs", MountFlags::empty(), options).unwrap();
        let written = Script::write(directory.path(), cache, symbols, socket, Some(&macros));
        let left = std::fs::read_dir(directory.path()).unwrap().count();
        unmount(directory.path(), UnmountFlags::DETACH).unwrap();
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(left, 0);
    }

    #[test]
    fn a_path_cannot_become_a_command() {
        for path in ["/a\nshell rm", "/a\"b", "/a\\b"] {
            assert!(quoted(Path::new(path)).is_err());
        }
        assert_eq!(quoted(&PathBuf::from("/a b")).unwrap(), "\"/a b\"");
    }
}
