//! Working inside a network namespace.
//!
//! A thread is in one namespace at a time, and its threads and processes are born there. Everything that has to
//! happen inside a namespace happens on a thread made for it, which takes its place with it to the grave.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::NetworkError;

const CURRENT: &str = "/proc/thread-self/ns/net";

/// Moves the calling thread into a network namespace. For a process that stays there: call it before any other
/// thread is started, as these are not moved.
///
/// # Errors
/// What the kernel says: `EPERM` without privileges, `EINVAL` when `netns` is something else.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    move_into_link_name_space(netns, Some(LinkNameSpaceType::Network)).map_err(Into::into)
}

/// The namespace that the calling thread is in.
pub(crate) fn current() -> io::Result<OwnedFd> {
    File::open(CURRENT).map(Into::into)
}

/// Runs `work` on a thread of its own inside `netns`. The thread finishes the work also when the caller does not wait
/// for it; what nobody receives goes to `abandoned`, still on that thread.
pub(crate) async fn run_inside<T: Send + 'static>(
    netns: &Arc<OwnedFd>,
    attempt: &'static str,
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
    abandoned: impl FnOnce(T) + Send + 'static,
) -> Result<T, NetworkError> {
    let (answer, answered) = oneshot::channel();
    let netns = Arc::clone(netns);
    let job = move || {
        let result =
            enter(netns.as_fd()).map_err(NetworkError::io("enter a network namespace")).and_then(|()| work());
        if let Err(Ok(unwanted)) = answer.send(result) {
            abandoned(unwanted);
        }
    };
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(job)
        .map_err(NetworkError::io(format!("start a thread to {attempt}")))?;
    answered.await.map_err(|_| NetworkError::Died { attempt })?
}
