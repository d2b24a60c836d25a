//! The end of the machine.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_remount};
use rustix::process::{WaitOptions, wait};
use rustix::system::{RebootCommand, reboot};

/// How long processes get to end by themselves, and then to be gone after SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// How often the dead are counted meanwhile.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// Ends every process but this one, politely first.
pub(crate) fn stop_everything() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // A process stopped by SIGSTOP sees neither until it goes on.
        for sent in [signal, Signal::SIGCONT] {
            let _ = kill(Pid::from_raw(-1), sent);
        }
        if reaped_all(Instant::now() + GRACE) {
            return;
        }
    }
}

fn reaped_all(deadline: Instant) -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Err(Errno::CHILD) => return true,
            Ok(None) | Err(_) if Instant::now() >= deadline => return false,
            Ok(None) | Err(_) => {
                let _ = poll(&mut [], Some(&TICK));
            }
        }
    }
}

/// Writes everything to the disk and ends the machine.
///
/// By a restart, not by powering off: a `microvm` without ACPI has no way to power off and would stay there halted,
/// while a reset ends every monitor that we run (QEMU by `-no-reboot`, Firecracker by itself).
pub(crate) fn end_machine() -> ! {
    rustix::fs::sync();
    // Read-only marks the file system as clean. Fails when a process could not be killed; then the journal helps.
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    let _ = reboot(RebootCommand::Restart);
    // Only without the right to restart the machine, which PID 1 has: its end makes the kernel panic, and that
    // restarts the machine too.
    std::process::exit(1);
}
