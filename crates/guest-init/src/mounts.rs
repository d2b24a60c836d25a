//! The file systems that a Linux program expects to find and that no image brings along.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rustix::mount::{MountFlags, mount};

use crate::error::{Attempt as _, Failure};

const PLAIN: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
const NO_PROGRAMS: MountFlags = PLAIN.union(MountFlags::NOEXEC);

struct Mount {
    kind: &'static str,
    path: &'static str,
    flags: MountFlags,
    options: Option<&'static CStr>,
}

/// In order: a path below another comes after it. `/dev` and `/proc` came along from the initramfs.
const MOUNTS: [Mount; 5] = [
    Mount { kind: "sysfs", path: "/sys", flags: NO_PROGRAMS, options: None },
    Mount { kind: "cgroup2", path: "/sys/fs/cgroup", flags: NO_PROGRAMS, options: Some(c"nsdelegate") },
    Mount {
        kind: "devpts",
        path: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        // Group 5 is `tty` wherever there is one.
        options: Some(c"gid=5,mode=620,ptmxmode=666"),
    },
    Mount { kind: "tmpfs", path: "/dev/shm", flags: PLAIN, options: Some(c"mode=1777") },
    Mount { kind: "tmpfs", path: "/run", flags: PLAIN, options: Some(c"mode=755,size=20%") },
];

/// Makes links that shells and scripts rely on (`<(…)` in bash needs `/dev/fd`).
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts them. `/tmp` stays on the root disk: it is part of what a snapshot without memory keeps, and memory is
/// scarcer than disk.
pub(crate) fn mount_kernel_file_systems() -> Result<(), Failure> {
    for Mount { kind, path, flags, options } in MOUNTS {
        fs::create_dir_all(path).attempt(|| format!("make {path}"))?;
        mount(kind, path, kind, flags, options).attempt(|| format!("mount {kind} on {path}"))?;
    }
    for (target, link) in LINKS {
        symlink(target, link).attempt(|| format!("make {link}"))?;
    }
    for (path, mode) in [("/run/lock", 0o1777), ("/tmp", 0o1777)] {
        make_directory(path, mode);
    }
    Ok(())
}

/// An image may have a link or something else there, which is its own business.
fn make_directory(path: &str, mode: u32) {
    if fs::create_dir(path).is_ok() {
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
    }
}
