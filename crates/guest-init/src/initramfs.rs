//! The first life: a memory file system with this program, envd and the modules in it.

use std::fs;

use rustix::mount::{MountFlags, mount};

use crate::error::{Attempt as _, Failure};

/// Modules, named `NN-name.ko` in the order in which they are loaded.
pub(crate) const MODULES: &str = "/modules";
/// The guest daemon.
pub(crate) const ENVD: &str = "/envd";
/// The sandbox's root file system, an ext4 image.
pub(crate) const ROOT_DISK: &str = "/dev/vda";

/// Mounts what the first life needs; both move along into the root later.
pub(crate) fn mount_first() -> Result<(), Failure> {
    for (kind, path) in [("devtmpfs", "/dev"), ("proc", "/proc")] {
        fs::create_dir_all(path).attempt(|| format!("make {path}"))?;
        let flags = match kind {
            "proc" => MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            _ => MountFlags::NOSUID | MountFlags::NOEXEC,
        };
        mount(kind, path, kind, flags, None).attempt(|| format!("mount {kind} on {path}"))?;
    }
    Ok(())
}
