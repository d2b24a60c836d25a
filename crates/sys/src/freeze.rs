//! Keeping a file system as it is: what was written is on its disk, and whoever writes more waits until it is thawed.

use std::io;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::ioctl::{NoArg, Opcode, ioctl, opcode};

/// `FIFREEZE` and `FITHAW` of `linux/fs.h`. The argument that their numbers speak of is not looked at.
const FREEZE: Opcode = opcode::read_write::<i32>(b'X', 119);
const THAW: Opcode = opcode::read_write::<i32>(b'X', 120);

/// Freezes the file system of an open file. One that is frozen stays so.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_SYS_ADMIN`, `EOPNOTSUPP` for a kind of file system that cannot be frozen.
pub fn freeze(file: impl AsFd) -> io::Result<()> {
    // SAFETY: FIFREEZE takes no argument.
    match unsafe { ioctl(file, NoArg::<FREEZE>::new()) } {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Thaws the file system of an open file. One that is not frozen stays so.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_SYS_ADMIN`.
pub fn thaw(file: impl AsFd) -> io::Result<()> {
    // SAFETY: FITHAW takes no argument.
    match unsafe { ioctl(file, NoArg::<THAW>::new()) } {
        Ok(()) | Err(Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    /// Of a file system that cannot be frozen: what could be is shared with everything else on this machine.
    #[test]
    fn what_cannot_be_frozen_is_an_error() {
        let file = File::open("/proc").unwrap();
        let error = freeze(&file).unwrap_err();
        let expected = [Errno::OPNOTSUPP, Errno::PERM].map(|errno| Some(errno.raw_os_error()));
        assert!(expected.contains(&error.raw_os_error()), "{error}");
    }
}
