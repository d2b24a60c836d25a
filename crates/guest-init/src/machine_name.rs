//! What the machine is called: at boot, and again when a copy of it is resumed under another name.
//!
//! The name is known to the kernel and has a line in `/etc/hosts`, without which `sudo` and Java wait for a name server.
//! That file belongs to the image and its users: one marked line in it is ours, and nothing else is touched.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};

/// The file that [`make_resolvable`] is for.
pub const HOSTS: &str = "/etc/hosts";

/// Marks the line that is ours to replace: a disk made under another name comes with an older one.
const MARK: &[u8] = b"# coldframe";
/// A longer file is left alone: whoever made it has other means to resolve names.
const MAX_HOSTS_BYTES: u64 = 1 << 20;

/// Whether a machine can be called so: 1 to 63 letters, digits, dots or hyphens, a letter or digit first.
#[must_use]
pub fn is_valid(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !name.starts_with(['-', '.'])
}

/// Tells the kernel.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_SYS_ADMIN`.
pub fn set_in_kernel(name: &str) -> io::Result<()> {
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// Makes the name known in the file with this path, [`HOSTS`] but in tests. A name that `is_valid` refuses makes no
/// sense here.
///
/// # Errors
/// When the file cannot be read or written, is no ordinary file or too long. Its old contents are there in each case.
pub fn make_resolvable(path: &str, name: &str) -> io::Result<()> {
    edit(path, |before| with_own_line(before, name))
}

/// Changes a file in place, if it changes at all. It is never shorter than before and after: programs read it meanwhile.
///
/// # Errors
/// As for [`make_resolvable`].
pub fn edit(path: &str, change: impl FnOnce(&[u8]) -> Vec<u8>) -> io::Result<()> {
    // Not to wait for the other end when somebody has put a FIFO there.
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(nonblocking)
        .open(path)?;
    let before = read(&file)?;
    let after = change(&before);
    if after != before {
        file.write_all_at(&after, 0)?;
        file.set_len(after.len() as u64)?;
    }
    Ok(())
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut contents = Vec::new();
    file.take(MAX_HOSTS_BYTES + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_HOSTS_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(contents)
}

/// Puts our line where it was, or at the end.
fn with_own_line(before: &[u8], name: &str) -> Vec<u8> {
    let mut after = Vec::with_capacity(before.len() + 2 * MARK.len() + name.len());
    let add = |after: &mut Vec<u8>| {
        after.extend_from_slice(b"127.0.1.1 ");
        after.extend_from_slice(name.as_bytes());
        after.push(b' ');
        after.extend_from_slice(MARK);
        after.push(b'\n');
    };
    let mut is_there = false;
    for line in before.split_inclusive(|&byte| byte == b'\n') {
        if !line.trim_ascii_end().ends_with(MARK) {
            after.extend_from_slice(line);
        } else if !is_there {
            add(&mut after);
            is_there = true;
        }
    }
    if !is_there {
        if !after.is_empty() && !after.ends_with(b"\n") {
            after.push(b'\n');
        }
        add(&mut after);
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(before: &str, name: &str) -> String {
        String::from_utf8(with_own_line(before.as_bytes(), name)).unwrap()
    }

    #[test]
    fn what_the_image_says_stays_and_our_old_line_goes() {
        let first = with("::1 localhost ip6-localhost\n10.0.0.1 db", "i1");
        assert_eq!(first, "::1 localhost ip6-localhost\n10.0.0.1 db\n127.0.1.1 i1 # coldframe\n");
        assert_eq!(with(&first, "i1"), first);
        assert_eq!(with(&first, "i2"), first.replace("i1", "i2"));
        assert_eq!(with("", "i1"), "127.0.1.1 i1 # coldframe\n");
    }

    #[test]
    fn our_line_stays_where_it_is_and_is_there_once() {
        let before = "1.1.1.1 a\n127.0.1.1 old # coldframe\r\n\n# end\n127.0.1.1 older # coldframe";
        assert_eq!(with(before, "new"), "1.1.1.1 a\n127.0.1.1 new # coldframe\n\n# end\n");
    }

    #[test]
    fn what_is_not_text_stays_as_it_is() {
        assert_eq!(with_own_line(b"\xff\xfe\n", "i1"), b"\xff\xfe\n127.0.1.1 i1 # coldframe\n");
    }

    #[test]
    fn a_file_is_changed_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let path = path.to_str().unwrap();
        make_resolvable(path, "a-long-name").unwrap();
        let inode = |path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
        let before = inode(path);
        make_resolvable(path, "b").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "127.0.1.1 b # coldframe\n");
        assert_eq!(inode(path), before);
        std::fs::write(path, vec![b'\n'; (1 << 20) + 1]).unwrap();
        assert_eq!(make_resolvable(path, "c").unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let error = make_resolvable(path.to_str().unwrap(), "i1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn names_are_those_that_the_kernel_and_the_file_can_take() {
        for name in ["a", "i0abc", "a-b.c", &"x".repeat(63)] {
            assert!(is_valid(name), "{name}");
        }
        for name in ["", "-a", ".a", "a b", "a\nb", "a/b", "a#b", "\u{fc}", &"x".repeat(64)] {
            assert!(!is_valid(name), "{name}");
        }
    }
}
