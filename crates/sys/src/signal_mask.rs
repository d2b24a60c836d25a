//! Signals that a process blocks to read them from a descriptor, and its children, which must not inherit that.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Makes every child that `command` starts begin with no signal blocked, whatever this process blocks.
pub fn unblock_in_child(command: &mut Command) {
    let unblock = || SigSet::empty().thread_set_mask().map_err(io::Error::from);
    // SAFETY: the closure runs between `fork` and `exec`, where only async-signal-safe work is allowed. It fills a set on
    // the stack and makes one system call; it neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(unblock);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::sys::signal::Signal;

    use super::*;

    fn blocked_in_child(prepare: impl FnOnce(&mut Command)) -> String {
        let mut command = Command::new("cat");
        command.arg("/proc/self/status");
        prepare(&mut command);
        let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
        text.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned()
    }

    #[test]
    fn a_child_starts_with_nothing_blocked() {
        // A thread of its own: the mask is a thread's.
        let (without, with) = thread::spawn(|| {
            SigSet::from(Signal::SIGTERM).thread_block().unwrap();
            (blocked_in_child(|_| {}), blocked_in_child(unblock_in_child))
        })
        .join()
        .unwrap();
        assert_eq!(without, "0000000000004000");
        assert_eq!(with, "0000000000000000");
    }
}
