//! What can go wrong with a control group.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a group was not found, made, limited or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The list of mounts could not be read.
    #[error("failed to read {path}: {source}")]
    Mounts {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No cgroup v2 file system is mounted.
    #[error("no cgroup v2 file system is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup`")]
    NotMounted,
    /// The name of a group would leave the hierarchy, or is empty.
    #[error("{path:?} is not the name of a control group below the hierarchy's root")]
    BadPath {
        /// What was asked for.
        path: PathBuf,
    },
    /// The group could not be made.
    #[error("failed to create control group {path}: {source}")]
    Create {
        /// The group.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The controller is there but did not accept the limit.
    #[error("failed to set {file} to {value:?}: {source}")]
    Limit {
        /// The file of the group.
        file: PathBuf,
        /// What was written.
        value: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The group could not be removed in time.
    #[error("control group {path} still not removable after {waited:?}: {source}; {holders}")]
    StillBusy {
        /// The group.
        path: PathBuf,
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt said.
        source: io::Error,
        /// Which processes are in it, or why that is not known.
        holders: String,
    },
    /// The caller gave up waiting; the group may still exist.
    #[error("removal of control group {path} was cancelled after {waited:?}: {source}")]
    Cancelled {
        /// The group.
        path: PathBuf,
        /// How long it was tried.
        waited: Duration,
        /// What the last attempt said.
        source: io::Error,
    },
}
