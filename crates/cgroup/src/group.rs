//! A control group and what is in it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::Applied;

/// A handle on a group: its path. Dropping it does nothing to the group.
#[derive(Debug)]
pub struct Group {
    path: PathBuf,
    applied: Applied,
}

impl Group {
    pub(crate) fn new(path: PathBuf, applied: Applied) -> Self {
        Self { path, applied }
    }

    /// The group's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which limits were set when this handle was made by [`crate::Hierarchy::create`].
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// The processes in this group, not those of its children. Zombies are not among them.
    ///
    /// # Errors
    /// What the kernel says when the list cannot be read, also when the group is gone; and
    /// [`io::ErrorKind::InvalidData`] when a line is not the id of a process that this one can name. An error never
    /// means "empty".
    pub fn procs(&self) -> io::Result<Vec<Pid>> {
        let text = fs::read_to_string(self.path.join("cgroup.procs"))?;
        text.lines().map(parse_pid).collect()
    }

    /// The file that puts a process into this group: a process that writes `0` to it joins. Meant to be inherited by
    /// a child that joins before it executes anything.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn procs_fd(&self) -> io::Result<OwnedFd> {
        Ok(OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))?.into())
    }

    /// Moves a process and its threads into this group.
    ///
    /// # Errors
    /// What the kernel says; [`rustix::io::Errno::SRCH`] when there is no such process.
    pub fn add(&self, pid: Pid) -> io::Result<()> {
        write_existing(&self.path.join("cgroup.procs"), pid.as_raw_nonzero().to_string().as_bytes())
    }

    /// Kills every process in this group and in those below it, also what is being forked meanwhile. `false` when
    /// there is no `cgroup.kill`: kernels before 5.14 have none, nor has a group that is gone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill(&self) -> io::Result<bool> {
        match write_existing(&self.path.join("cgroup.kill"), b"1") {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a process lives in this group or below it.
    ///
    /// # Errors
    /// What the kernel says, also when the group is gone; [`io::ErrorKind::InvalidData`] when the answer is missing
    /// from `cgroup.events`.
    pub fn populated(&self) -> io::Result<bool> {
        let events = fs::read_to_string(self.path.join("cgroup.events"))?;
        match events.lines().find_map(|line| line.strip_prefix("populated ")) {
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("cgroup.events says populated {other:?}, expected 0 or 1"),
            )),
        }
    }
}

/// Writes to a file of the kernel's, which is never created here: in a group that is gone this fails instead of
/// leaving a file in whatever directory has its name.
pub(crate) fn write_existing(file: &Path, value: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(value)
}

fn parse_pid(line: &str) -> io::Result<Pid> {
    // The kernel writes 0 for a process of a pid namespace that the reader cannot see.
    line.trim().parse().ok().filter(|&id| id > 0).and_then(Pid::from_raw).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("cgroup.procs names {line:?}, expected a process id"),
        )
    })
}
