//! What can go wrong, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use model::BuildId;

/// Why a template could not be made or found. One sentence for whoever runs the machine.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// Debian's files have owners, and chroot is root's.
    #[error("making the base template needs root: run it again with sudo")]
    NotRoot,
    /// The file system is nearly full.
    #[error(
        "making the base template needs {needed_mib} MiB of free space in {}, but only {free_mib} MiB are free: free some, \
         or choose another state directory with --state",
        path.display()
    )]
    NoSpace {
        /// A directory on the file system.
        path: PathBuf,
        /// What is needed.
        needed_mib: u64,
        /// What is there.
        free_mib: u64,
    },
    /// A program is not installed.
    #[error("{tool} is not installed: run `apt-get install {package}`")]
    MissingTool {
        /// The program.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program ran and failed.
    #[error("{what} failed ({how}):\n{output}")]
    Tool {
        /// What it was to do.
        what: String,
        /// How it ended.
        how: String,
        /// The end of what it said.
        output: String,
    },
    /// Packages could not be fetched.
    #[error(
        "{what} failed; check that this machine reaches its package sources with `apt-get update`. apt said:\n{output}"
    )]
    Network {
        /// What was to be fetched.
        what: String,
        /// The end of what apt said.
        output: String,
    },
    /// A file or directory cannot be used.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was attempted, to be followed by the path.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel package does not hold what it should.
    #[error("the kernel package {package} cannot be used: {why}")]
    Kernel {
        /// Its name.
        package: String,
        /// What is wrong with it.
        why: String,
    },
    /// The root file system could not be turned into an image.
    #[error(transparent)]
    Image(#[from] disk::ext4::Ext4Error),
    /// There is no such build.
    #[error("build {0} does not exist: `coldframe template base` makes the base template")]
    NoBuild(BuildId),
    /// A build's manifest or files are not what they should be.
    #[error("{} is damaged: {why}; remove its directory and run `coldframe template base`", path.display())]
    Damaged {
        /// The manifest, or the file that it names.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl TemplateError {
    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), why: why.into() }
    }
}

/// Says on what a system call failed.
pub(crate) trait At<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, TemplateError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, TemplateError> {
        self.map_err(|source| TemplateError::Io { what, path: path.to_owned(), source: source.into() })
    }
}
