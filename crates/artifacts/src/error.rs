//! Why a build cannot be read or made.

use std::io;
use std::path::Path;

use build::{FormatError, MergeError, ReadError};
use model::BuildId;

/// Something is wrong with a build or its store. The text names the object, and what to expect of it.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// There is no such object.
    #[error("{object} does not exist")]
    Missing {
        /// Which object of which build.
        object: String,
    },
    /// The storage failed.
    #[error("cannot {action} {object}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        object: String,
        /// Why it failed.
        source: io::Error,
    },
    /// An object has another length than it was written with.
    #[error("{object} has {found} bytes, expected {expected}")]
    Length {
        /// Which object of which build.
        object: String,
        /// Its length.
        found: u64,
        /// What its length should be.
        expected: u64,
    },
    /// An object is larger than any that is written.
    #[error("{object} has {found} bytes, expected at most {limit}")]
    TooLarge {
        /// Which object of which build.
        object: String,
        /// Its length.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// An object's content is not what it should be.
    #[error("{object}: {source}")]
    Format {
        /// Which object of which build.
        object: String,
        /// What is wrong.
        source: FormatError,
    },
    /// Bytes changed since they were written, or are those of another object.
    #[error(
        "{object}: the bytes from {offset} on are damaged: their checksum is {found:08x}, expected {expected:08x}"
    )]
    Damaged {
        /// Which object of which build.
        object: String,
        /// Where in it.
        offset: u64,
        /// The checksum of what was read.
        found: u32,
        /// The checksum of what was written.
        expected: u32,
    },
    /// An object is a good one in the wrong place.
    #[error("{object} is {found}, expected {expected}")]
    Wrong {
        /// Which object of which build.
        object: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// An image cannot be made of what was written.
    #[error("{object}: {source}")]
    Merge {
        /// Which object of which build.
        object: String,
        /// Why.
        source: MergeError,
    },
    /// A build of this name exists already.
    #[error("build {0} exists already, and builds never change")]
    Exists(BuildId),
    /// What should be published is not what its manifest says.
    #[error("build {build} cannot be published: {why}")]
    Incomplete {
        /// The build.
        build: BuildId,
        /// What is missing or different.
        why: String,
    },
}

impl ArtifactError {
    /// Whether what was stored is lost, for good: it is not there, or it is not what was written. Not so when it may be
    /// readable at another time, or by another version of this program.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Missing { .. }
            | Self::Length { .. }
            | Self::TooLarge { .. }
            | Self::Damaged { .. }
            | Self::Wrong { .. } => true,
            Self::Format { source, .. } => !matches!(source, FormatError::Newer { .. }),
            Self::Io { source, .. } => is_loss(source),
            Self::Merge { .. } | Self::Exists(_) | Self::Incomplete { .. } => false,
        }
    }

    /// An error about a file or a directory.
    pub(crate) fn path(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let object = path.display().to_string();
        move |source| Self::Io { action, object, source }
    }

    /// An error about an object.
    pub(crate) fn object(action: &'static str, object: &str) -> impl FnOnce(io::Error) -> Self + use<> {
        let object = object.to_owned();
        move |source| Self::Io { action, object, source }
    }
}

impl From<ReadError> for ArtifactError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io { object, source, .. } => Self::Io { action: "read", object, source },
            ReadError::Damaged { object, offset, found, expected } => {
                Self::Damaged { object, offset, found, expected }
            }
            outside @ ReadError::Outside { .. } => {
                let source = io::Error::new(io::ErrorKind::InvalidInput, outside);
                Self::Io { action: "read", object: "an image".to_owned(), source }
            }
        }
    }
}

/// Whether an error of a file means that its content is lost: it ends too early, or the disk cannot read it. What is short
/// now, memory or descriptors say, is no such thing.
#[must_use]
pub fn is_loss(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_readable_later_is_not_lost() {
        let object = || "memory.header of build b".to_owned();
        let io = |source| ArtifactError::Io { action: "read", object: object(), source };
        let format = |source| ArtifactError::Format { object: object(), source };
        for lost in [
            ArtifactError::Missing { object: object() },
            ArtifactError::Length { object: object(), found: 1, expected: 2 },
            ArtifactError::Damaged { object: object(), offset: 0, found: 1, expected: 2 },
            format(FormatError::Short { offset: 1, expected: "more" }),
            io(io::ErrorKind::UnexpectedEof.into()),
            io(io::Error::from_raw_os_error(5)),
        ] {
            assert!(lost.is_loss(), "{lost}");
        }
        for kept in [
            io(io::Error::from_raw_os_error(24)),
            io(io::ErrorKind::PermissionDenied.into()),
            format(FormatError::Newer { found: 2, newest: 1 }),
        ] {
            assert!(!kept.is_loss(), "{kept}");
        }
    }
}
