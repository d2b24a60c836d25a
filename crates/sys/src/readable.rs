//! Waiting in tokio for a descriptor that tokio has no type for: a pidfd, an inotify instance.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::os::fd::OwnedFd {}
    impl Sealed for std::sync::Arc<std::os::fd::OwnedFd> {}
}

/// What keeps one descriptor open for as long as it lives.
pub trait KeepsOpen: AsRawFd + sealed::Sealed {}
impl KeepsOpen for OwnedFd {}
impl KeepsOpen for Arc<OwnedFd> {}

/// Makes tokio tell when `fd` is readable. The runtime must be that of the caller.
///
/// # Errors
/// When the kernel cannot poll such a descriptor, or has no memory.
pub fn readable<T: KeepsOpen>(fd: T) -> io::Result<AsyncFd<T>> {
    watch(fd, Interest::READABLE)
}

/// Makes tokio tell when `fd` is what the caller is interested in. The runtime must be that of the caller.
///
/// # Errors
/// When the kernel cannot poll such a descriptor, or has no memory.
pub fn watch<T: KeepsOpen>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    // SAFETY: `KeepsOpen` is sealed; both of its types return the same number at every call and keep it open until they
    // are dropped.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}
