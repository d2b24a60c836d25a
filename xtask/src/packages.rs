//! Debian packages.

use std::process::Command;

use crate::Outcome;
use crate::command::capture;
use crate::steps::step;

/// For compiling.
pub(crate) const BUILD: &[&str] = &["gcc", "libc6-dev"];
/// For running sandboxes and making the base template.
pub(crate) const RUN: &[&str] =
    &["qemu-system-x86", "mmdebstrap", "e2fsprogs", "nftables", "iproute2", "ca-certificates", "util-linux"];
/// For the tests, beside these.
pub(crate) const TEST: &[&str] = &[
    "python3",
    "python3-venv",
    "python3-pip",
    "qemu-utils",
    "procps",
    "git",
    "busybox-static",
    "cpio",
    "curl",
    "gdb",
    "docker-registry",
    "apache2-utils",
];

/// Installs what is missing; asks nothing of the network when nothing is.
pub(crate) fn ensure(packages: &[&str]) -> Outcome {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(format!(
            "these Debian packages are missing: {}; run as root, or install them with `apt-get install {}`",
            missing.join(" "),
            missing.join(" ")
        ));
    }
    step(&format!("installing Debian packages: {}", missing.join(" ")), || {
        let network = |error| format!("{error}\nis the network up, and are the apt sources right?");
        capture(apt().arg("update")).map_err(network)?;
        capture(apt().args(["install", "-y", "--no-install-recommends"]).args(&missing)).map_err(network)
    })
    .map(drop)
}

fn missing<'a>(packages: &[&'a str]) -> Result<Vec<&'a str>, String> {
    // dpkg-query fails when it knows nothing of one of them, and still prints the others.
    let output = Command::new("dpkg-query")
        .args(["-W", "-f=${Package} ${db:Status-Status}\n"])
        .args(packages)
        .output()
        .map_err(|error| format!("running dpkg-query: {error}; this needs Debian 12 or a relative of it"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installed: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix(" installed")).collect();
    Ok(packages.iter().copied().filter(|package| !installed.contains(package)).collect())
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
    command
}

/// Whether this process may change the system.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
