//! A network namespace of one's own.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread, and only it, into a new, empty network namespace. Threads and processes that it starts
/// from then on are born there. Meant for a thread that ends with this piece of work.
///
/// # Errors
/// What the kernel says: `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: what makes unshare unsafe is CLONE_FILES, which would give this thread a table of descriptors that
    // other threads do not share. Only CLONE_NEWNET is asked for.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(Into::into)
}
