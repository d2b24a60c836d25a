//! Descriptors that a process was started with.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

/// The numbers that were handed out: each belongs to one owner only.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes ownership of the descriptor `number`, which our parent left open for us. It will not be inherited further.
///
/// Call it before anything else opens files: later, the number may belong to somebody else in this process.
///
/// # Errors
/// When the number is a standard stream, is not open, or was taken before.
pub fn take_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::other(format!("descriptor {number} is a standard stream")));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if taken.contains(&number) {
        return Err(io::Error::other(format!("descriptor {number} was taken before")));
    }
    // SAFETY: the number is only borrowed for one system call, which fails with EBADF when it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    taken.push(number);
    // SAFETY: it is open (the call above succeeded), it came from our parent, and `TAKEN` gives it to one owner only.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn each_open_descriptor_is_taken_once() {
        let number = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = take_fd(number).unwrap();
        assert!(take_fd(number).is_err());
        drop(owned);
        assert!(take_fd(1).is_err());
        assert!(take_fd(1_000_000).is_err());
    }
}
