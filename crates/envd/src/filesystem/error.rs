//! Why something could not be done to a file.

use std::io;
use std::path::Path;

use connectrpc::ConnectError;
use rustix::io::Errno;
use thiserror::Error;

/// An answer of the file system service that is not a success; the kind decides the code that clients see.
#[derive(Debug, Error)]
pub(crate) enum FsError {
    /// Nothing is there.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense for what is there.
    #[error("{0}")]
    InvalidArgument(String),
    /// Something is there already.
    #[error("{0}")]
    AlreadyExists(String),
    /// Symbolic links go round in a circle.
    #[error("{0}")]
    FailedPrecondition(String),
    /// A limit of ours or of the kernel.
    #[error("{0}")]
    ResourceExhausted(String),
    /// Anything else.
    #[error("{0}")]
    Internal(String),
}

impl FsError {
    /// Sorts an error of the kernel: `what` was attempted on `path`.
    pub(crate) fn of(what: &str, path: &Path, error: &io::Error) -> Self {
        let path = path.display();
        if error.kind() == io::ErrorKind::InvalidInput {
            return Self::InvalidArgument(format!("cannot {what} '{path}': {error}"));
        }
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOENT) => Self::NotFound(format!("path '{path}' does not exist")),
            Some(Errno::NAMETOOLONG) => Self::InvalidArgument(format!("cannot {what} '{path}': {error}")),
            Some(Errno::LOOP) => Self::FailedPrecondition(format!(
                "cannot {what} '{path}': symbolic links go round in a circle"
            )),
            _ => Self::Internal(format!("cannot {what} '{path}': {error}")),
        }
    }
}

impl From<FsError> for ConnectError {
    fn from(error: FsError) -> Self {
        match error {
            FsError::NotFound(message) => Self::not_found(message),
            FsError::InvalidArgument(message) => Self::invalid_argument(message),
            FsError::AlreadyExists(message) => Self::already_exists(message),
            FsError::FailedPrecondition(message) => Self::failed_precondition(message),
            FsError::ResourceExhausted(message) => Self::resource_exhausted(message),
            FsError::Internal(message) => Self::internal(message),
        }
    }
}
