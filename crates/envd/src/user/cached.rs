//! Reading a small file without ever waiting for a disk.

use std::io::IoSliceMut;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

/// Longer files are read where waiting is allowed.
const MAX_BYTES: usize = 64 << 10;

/// What is in a file, if the kernel has all of it in memory, the way to it included; nothing when it knows that there is
/// no such file. `None` says that the file has to be read in some other way.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Some(Vec::new()),
        Err(_) => return None,
    };
    let length = usize::try_from(fstat(&file).ok()?.st_size).ok().filter(|length| *length < MAX_BYTES)?;
    // One byte more than there is: who fills it has found a file that has grown.
    let mut contents = vec![0; length + 1];
    let read = preadv2(&file, &mut [IoSliceMut::new(&mut contents)], 0, ReadWriteFlags::NOWAIT).ok()?;
    contents.truncate(read);
    (read == length).then_some(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_memory_is_read_and_anything_else_is_left_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        // The kernel may have to look whether it is there.
        assert!(read(&path).is_none_or(|contents| contents.is_empty()));
        for contents in ["", "root:x:0:0:root:/root:/bin/sh\n"] {
            std::fs::write(&path, contents).unwrap();
            // Not every file system can say what it has.
            if let Some(read) = read(&path) {
                assert_eq!(read, contents.as_bytes());
            }
        }
        std::fs::write(&path, vec![b'x'; MAX_BYTES]).unwrap();
        assert_eq!(read(&path), None);
        rustix::fs::mkfifoat(CWD, directory.path().join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        // Nobody writes to it; whatever this says, it says it at once.
        let _ = read(&directory.path().join("pipe"));
    }
}
