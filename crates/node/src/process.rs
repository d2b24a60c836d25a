//! A supervisor process: started by this server or by the one before it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use sys::child::{ChildSetup, prepare};
use tokio::io::unix::AsyncFd;

/// What a supervisor says to its operator, in its sandbox's directory.
pub(crate) const SUPERVISOR_LOG: &str = "supervisor.log";

/// One supervisor, by pidfd: a number that another process got meanwhile is never taken for it.
#[derive(Debug)]
pub(crate) struct SupervisorProcess {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// Only the parent can reap; a supervisor that was adopted is reaped by init.
    child: Option<Child>,
}

impl SupervisorProcess {
    /// Starts a supervisor for the sandbox directory `dir`. It is in the control group of `cgroup_procs` before its
    /// first instruction, so that whoever ends the group ends it, however early. Blocks until the program runs.
    pub(crate) fn spawn(
        binary: &Path,
        dir: &Path,
        cgroup_procs: OwnedFd,
        control: UnixListener,
        netns: OwnedFd,
    ) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(dir.join(SUPERVISOR_LOG))?;
        let mut command = Command::new(binary);
        command
            .arg("supervisor")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/");
        // A session of its own: a Ctrl-C for the server, or its death, is not the sandbox's.
        let setup =
            ChildSetup { new_session: true, cgroup_procs: Some(cgroup_procs), ..ChildSetup::default() };
        prepare(&mut command, setup);
        command
            .fd_mappings(vec![
                FdMapping { parent_fd: control.into(), child_fd: control::CONTROL_FD },
                FdMapping { parent_fd: netns, child_fd: control::NETNS_FD },
            ])
            .map_err(io::Error::other)?;
        let mut child = command.spawn()?;
        let opened = i32::try_from(child.id()).map_err(io::Error::other).and_then(Self::open);
        match opened {
            Ok(process) => Ok(Self { child: Some(child), ..process }),
            Err(error) => {
                // Nobody could follow it. The error worth reporting is the first one.
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// A supervisor that runs already.
    pub(crate) fn open(pid: i32) -> io::Result<Self> {
        let number = Pid::from_raw(pid).ok_or_else(|| io::Error::other(format!("{pid} is no process")))?;
        let pidfd = pidfd_open(number, PidfdFlags::NONBLOCK)?;
        Ok(Self { pid, pidfd: sys::readable::readable(pidfd)?, child: None })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it at once. Nothing happens when it is gone already.
    pub(crate) fn kill(&self) {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::error!(pid = self.pid, %error, "killing the supervisor failed"),
        }
    }

    /// Whether the process is gone by now.
    pub(crate) fn has_exited(&self) -> bool {
        use futures_util::FutureExt;
        self.exited().now_or_never().is_some()
    }

    /// Returns when the process is gone. It may be a zombie still.
    pub(crate) async fn exited(&self) -> io::Result<()> {
        self.pidfd.readable().await?.retain_ready();
        Ok(())
    }

    /// Returns when the process is gone, and reaps it where that is ours to do.
    pub(crate) async fn gone(&mut self) -> io::Result<()> {
        self.exited().await?;
        if let Some(child) = &mut self.child {
            // Does not block: it is gone.
            child.wait()?;
        }
        Ok(())
    }
}
