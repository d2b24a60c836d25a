//! The floor of a boot: a bare QEMU, started by hand with the base template's kernel, initial RAM file system and disk,
//! until PID 1 starts the guest daemon.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What PID 1 prints when it hands over to the guest daemon.
const LAST_LINE: &str = "starting envd";
/// A guest that has not come so far by then never will.
const PATIENCE: Duration = Duration::from_secs(120);

/// Boots the base template with a plain command line; the disk's changes go to a temporary file of QEMU's.
pub(super) fn bare(base: &template::Build, accel: vmm::Accel) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args(vmm::bare_command_line(accel, base.shape.vcpus, base.shape.memory))
        .arg("-kernel")
        .arg(&base.kernel)
        .arg("-initrd")
        .arg(&base.initrd)
        .args(["-drive", &format!("id=root,file={},format=raw,if=none,snapshot=on", base.rootfs.display())])
        .args([
            "-device",
            "virtio-blk-device,drive=root",
            "-netdev",
            "user,id=net",
            "-device",
            "virtio-net-device,netdev=net",
        ])
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("starting qemu-system-x86_64: {error}"))?;
    let output = child.stdout.take().ok_or("no output of QEMU")?;
    let reached = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .take_while(|_| begun.elapsed() < PATIENCE)
        .any(|line| line.contains(LAST_LINE));
    let elapsed = begun.elapsed();
    let _ = child.kill();
    child.wait().map_err(|error| error.to_string())?;
    reached.then_some(elapsed).ok_or_else(|| "the bare guest never started envd".into())
}
