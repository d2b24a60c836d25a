//! The guest daemon: a program of the initramfs that runs in the sandbox's root.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use rustix::process::Pid;
use sys::signal_mask::unblock_in_child;

use crate::cmdline::Cmdline;
use crate::error::{Attempt as _, Failure};

/// Where envd reports that it is ready and what processes print; the supervisor listens there.
const HOST: &str = "169.254.0.22:80";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// envd's file, held open so that it can be started again when its name is long gone.
pub(crate) struct Program(File);

impl Program {
    pub(crate) fn open(path: &str) -> Result<Self, Failure> {
        File::open(path).map(Self).attempt(|| format!("open {path}"))
    }

    /// Starts it. Its output goes to the console.
    pub(crate) fn start(&self, cmdline: &Cmdline) -> io::Result<Pid> {
        // The descriptor closes on exec, which is after the kernel has opened the program through it.
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command
            .args(["-guest", "-host", HOST])
            .current_dir("/")
            .env_clear()
            .envs([("PATH", PATH), ("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root")])
            .envs(&cmdline.env);
        // We block signals to read them from a descriptor; envd and whatever it starts must hear them.
        unblock_in_child(&mut command);
        let child = command.spawn()?;
        // The handle is dropped: whoever reaps every child reaps this one too.
        Ok(Pid::from_child(&child))
    }
}
