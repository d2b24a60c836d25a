//! What ends the machine.

use std::io;

/// A step without which there is no sandbox.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {why}")]
pub(crate) struct Failure {
    what: String,
    why: io::Error,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, why: impl Into<io::Error>) -> Self {
        Self { what: what.into(), why: why.into() }
    }
}

/// Says what was attempted when a system call failed.
pub(crate) trait Attempt<T> {
    /// `what` completes "cannot …".
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|why| Failure::new(what(), why))
    }
}
