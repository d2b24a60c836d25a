//! A machine that is started before anybody wants it.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use model::Shape;
use serde::{Deserialize, Serialize};

use crate::{Accel, CgroupLimits, Launch};

/// Name of the file that tells a supervisor to stand by, in a directory that has no launch file yet.
pub const STANDBY_FILE: &str = "standby.json";

/// The machine of a sandbox without the sandbox: enough to start a VMM that waits for a build to go on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standby {
    /// The machine.
    pub shape: Shape,
    /// How guest instructions are executed.
    pub accel: Accel,
    /// Control group of the sandbox, relative to the hierarchy's root.
    pub cgroup: PathBuf,
    /// Limits of the VMM.
    pub limits: CgroupLimits,
    /// User and group that the VMM runs as.
    pub vmm_uid: u32,
    /// The VMM's program, in place of the one that is found in `PATH`.
    #[serde(default)]
    pub vmm: Option<PathBuf>,
}

/// Which sandbox a machine becomes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// What the launch file in `dir` says by now.
    pub launch: Launch,
    /// The directory of the machine, which has the name of its sandbox by now.
    pub dir: PathBuf,
}

impl Standby {
    /// Writes the file into `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let path = dir.join(STANDBY_FILE);
        File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?
            .write_all(&serde_json::to_vec(self)?)
    }

    /// Reads the file in `dir`, if there is one.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(dir.join(STANDBY_FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Launch {
    /// The machine of the sandbox.
    #[must_use]
    pub fn machine(&self) -> Standby {
        Standby {
            shape: self.spec.shape,
            accel: self.accel,
            cgroup: self.cgroup.clone(),
            limits: self.limits,
            vmm_uid: self.vmm_uid,
            vmm: self.vmm.clone(),
        }
    }
}
