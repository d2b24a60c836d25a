//! What the kernel offers.

use std::fs;
use std::process::Command;

use cgroup::Hierarchy;

use super::Finding;

pub(super) fn userfaultfd() -> Finding {
    // The file is there exactly when the kernel was built with userfaultfd; root may always use it.
    if fs::exists("/proc/sys/vm/unprivileged_userfaultfd").unwrap_or(false) {
        return Finding::fine("userfaultfd", "available");
    }
    Finding::slower(
        "userfaultfd",
        "not in this kernel",
        "memory of paused sandboxes is loaded through it; use a kernel with CONFIG_USERFAULTFD (every distribution's is)",
    )
}

pub(super) fn tun() -> Finding {
    match fs::File::options().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::fine("tun", "/dev/net/tun opens"),
        Err(error) => Finding::missing(
            "tun",
            format!("/dev/net/tun: {error}"),
            "sandboxes have no network without it; try `modprobe tun`, or give this container /dev/net/tun",
        ),
    }
}

pub(super) fn nftables() -> Finding {
    const HINT: &str = "the packet filter around sandboxes is made with it; install the package nftables and use a kernel with CONFIG_NF_TABLES";
    match Command::new("nft").args(["list", "tables"]).output() {
        Ok(output) if output.status.success() => Finding::fine("nftables", "nft lists tables"),
        Ok(output) => {
            Finding::missing("nftables", String::from_utf8_lossy(&output.stderr).trim().to_owned(), HINT)
        }
        Err(error) => Finding::missing("nftables", format!("running nft: {error}"), HINT),
    }
}

pub(super) fn cgroups() -> Finding {
    let hierarchy = match Hierarchy::discover() {
        Ok(hierarchy) => hierarchy,
        Err(error) => {
            return Finding::missing("cgroups", error.to_string(), "mount cgroup2 at /sys/fs/cgroup");
        }
    };
    let controllers = fs::read_to_string(hierarchy.root().join("cgroup.controllers")).unwrap_or_default();
    let root = hierarchy.root().display();
    let lacking: Vec<_> = ["cpu", "memory", "pids"]
        .into_iter()
        .filter(|name| !controllers.split_whitespace().any(|c| c == *name))
        .collect();
    if lacking.is_empty() {
        return Finding::fine("cgroups", format!("v2 at {root} with cpu, memory and pids"));
    }
    Finding::slower(
        "cgroups",
        format!("v2 at {root} without {}", lacking.join(", ")),
        "sandboxes are contained and killed by group, but not limited by it; boot with systemd.unified_cgroup_hierarchy=1",
    )
}

pub(super) fn hugepages() -> Finding {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("HugePages_Total:")).map_or("0", str::trim);
    if total == "0" {
        return Finding::slower(
            "hugepages",
            "none reserved",
            "guests run on 4 KiB pages, which works; reserving 2 MiB pages (vm.nr_hugepages) makes large guests faster",
        );
    }
    Finding::fine("hugepages", format!("{total} reserved"))
}

/// Without this, the first VM of a process on a 6.1 host waits 30 to 200 ms for a kernel thread.
pub(super) fn nx_huge_pages() -> Finding {
    match fs::read_to_string("/sys/module/kvm/parameters/nx_huge_pages") {
        Err(_) => Finding::fine("nx_huge_pages", "kvm is not loaded"),
        Ok(value) if matches!(value.trim(), "N" | "never" | "0") => {
            Finding::fine("nx_huge_pages", value.trim())
        }
        Ok(value) => Finding::slower(
            "nx_huge_pages",
            format!("kvm.nx_huge_pages is {}", value.trim()),
            "restores are 30 to 200 ms slower; where the processor is not affected by iTLB multihit, boot with kvm.nx_huge_pages=never",
        ),
    }
}

/// Moving a process into a group takes a lock that waits for an RCU grace period unless the hierarchy favours it.
pub(super) fn favordynmods() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(mount) = mounts.lines().find(|line| line.contains(" - cgroup2 ")) else {
        return Finding::fine("favordynmods", "no cgroup2 mount");
    };
    if mount.contains("favordynmods") {
        return Finding::fine("favordynmods", "set");
    }
    Finding::slower(
        "favordynmods",
        "not set on the cgroup2 mount",
        "starting a VMM in its group can take tens of milliseconds; `mount -o remount,favordynmods` the cgroup2 mount (kernel 6.0 or newer)",
    )
}
