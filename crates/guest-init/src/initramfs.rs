//! The first life: a memory file system with this program, envd and the modules in it.

use std::fs;

use rustix::mount::{MountFlags, mount};

use crate::error::{Attempt as _, Failure};

/// Directories of modules; in each, files are named `NN-name.ko` in the order in which they are loaded. The bus comes
/// first; disk and network do not need each other; what is in the last one nobody waits for.
pub(crate) const MODULES: [&str; 4] = ["/modules/bus", "/modules/disk", "/modules/net", "/modules/late"];
/// This program, where the kernel looks for it.
pub(crate) const INIT: &str = "/init";
/// The guest daemon.
pub(crate) const ENVD: &str = "/envd";
/// The sandbox's root file system, an ext4 image.
pub(crate) const ROOT_DISK: &str = "/dev/vda";

const FIRST_MOUNTS: [(&str, &str, MountFlags); 2] = [
    ("devtmpfs", "/dev", MountFlags::NOSUID),
    ("proc", "/proc", MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC)),
];

/// Mounts what the first life needs; both move along into the root later.
pub(crate) fn mount_first() -> Result<(), Failure> {
    for (kind, path, flags) in FIRST_MOUNTS {
        fs::create_dir_all(path).attempt(|| format!("make {path}"))?;
        mount(kind, path, kind, flags, None).attempt(|| format!("mount {kind} on {path}"))?;
    }
    Ok(())
}
