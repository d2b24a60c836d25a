//! What the host has.

use std::process::Command;

use super::Finding;
use crate::state::StateDir;

/// A base template needs about one GiB while it is made; each sandbox what it writes.
const DISK_NEEDED_GIB: u64 = 4;
const MEMORY_NEEDED_MIB: u64 = 2048;

pub(super) fn qemu() -> Finding {
    const HINT: &str = "install the package qemu-system-x86";
    match Command::new("qemu-system-x86_64").arg("--version").output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Finding::fine("qemu", text.lines().next().unwrap_or_default().to_owned())
        }
        Ok(output) => {
            Finding::missing("qemu", format!("qemu-system-x86_64 --version: {}", output.status), HINT)
        }
        Err(error) => Finding::missing("qemu", format!("running qemu-system-x86_64: {error}"), HINT),
    }
}

pub(super) fn disk(state: &StateDir) -> Finding {
    let root = state.root().display();
    match rustix::fs::statvfs(state.root()) {
        Ok(stat) => {
            let free = (stat.f_bavail * stat.f_frsize) >> 30;
            if free >= DISK_NEEDED_GIB {
                return Finding::fine("disk", format!("{free} GiB free at {root}"));
            }
            Finding::missing(
                "disk",
                format!("{free} GiB free at {root}"),
                "free at least 4 GiB, or use --state elsewhere",
            )
        }
        Err(error) => {
            Finding::missing("disk", format!("{root}: {error}"), "choose another directory with --state")
        }
    }
}

pub(super) fn memory() -> Finding {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024;
    if free >= MEMORY_NEEDED_MIB {
        return Finding::fine("memory", format!("{free} MiB available"));
    }
    Finding::slower(
        "memory",
        format!("{free} MiB available"),
        "few sandboxes fit: each takes 512 MiB and its VMM",
    )
}
