//! One control group for processes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};

/// Room for `cgroup.events`, which has two short lines.
const MAX_EVENTS: usize = 256;

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    directory: Arc<OwnedFd>,
    /// Where the kernel can stop a group (since Linux 5.2).
    freezing: Option<Freezing>,
}

/// Open from the beginning: stopping and letting go on need no path, which somebody could have changed, and no disk.
#[derive(Debug)]
struct Freezing {
    freeze: File,
    events: File,
}

impl Group {
    /// Makes it, or takes the one that is there since a daemon before this one. Settings that a kernel does not offer are
    /// left out. Processes in it run then, whatever a daemon before this one has left.
    pub(super) fn make(path: &Path, settings: &[(&str, String)]) -> Option<Self> {
        let _ = fs::create_dir(path);
        for (file, value) in settings {
            let _ = fs::write(path.join(file), value);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = Arc::new(open(path, flags, Mode::empty()).ok()?);
        let group = Self { directory, freezing: Freezing::open(path).ok() };
        // Nothing to thaw, in nearly every case.
        let _ = group.set_frozen(false);
        Some(group)
    }

    /// The group for a process to be born in.
    pub(super) fn directory(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.directory)
    }

    /// Asks the kernel to stop all processes in it, or to let them go on. They stop one after the other.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        let value = if frozen { b"1" } else { b"0" };
        match &self.freezing {
            Some(freezing) => freezing.freeze.write_all_at(value, 0),
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether all processes in it stand still.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn is_frozen(&self) -> io::Result<bool> {
        let Some(freezing) = &self.freezing else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut text = [0; MAX_EVENTS];
        let length = freezing.events.read_at(&mut text, 0)?;
        let mut lines = text[..length].split(|byte| *byte == b'\n');
        match lines.find_map(|line| line.strip_prefix(b"frozen ")) {
            Some(value) => Ok(value == b"1"),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "cgroup.events says nothing of frozen")),
        }
    }
}

impl Freezing {
    fn open(path: &Path) -> io::Result<Self> {
        let freeze = OpenOptions::new().write(true).open(path.join("cgroup.freeze"))?;
        Ok(Self { freeze, events: File::open(path.join("cgroup.events"))? })
    }
}
