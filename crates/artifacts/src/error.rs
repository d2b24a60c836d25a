//! Why a build cannot be read or made.

use std::io;
use std::path::Path;

use build::{FormatError, MergeError};
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
