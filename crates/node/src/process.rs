//! A supervisor process: started by this server or by the one before it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sys::child::{ChildSetup, prepare};
use tokio::io::unix::AsyncFd;

/// One supervisor, by pidfd: a number that another process got meanwhile is never taken for it.
#[derive(Debug)]
pub(crate) struct SupervisorProcess {
    pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// Only the parent can reap; a supervisor that was adopted is reaped by init.
    child: Option<Child>,
}

impl SupervisorProcess {
    /// Starts a supervisor for the sandbox directory `dir`.
    pub(crate) fn spawn(binary: &Path, dir: &Path, control: UnixListener, netns: OwnedFd) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(dir.join("supervisor.log"))?;
        let mut command = Command::new(binary);
        command
            .arg("supervisor")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/");
        // A session of its own: a Ctrl-C for the server, or its death, is not the sandbox's.
        prepare(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
        command
            .fd_mappings(vec![
                FdMapping { parent_fd: control.into(), child_fd: control::CONTROL_FD },
                FdMapping { parent_fd: netns, child_fd: control::NETNS_FD },
            ])
            .map_err(io::Error::other)?;
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Self { child: Some(child), ..Self::open(pid)? })
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

    /// Returns when the process is gone, and reaps it where that is ours to do.
    pub(crate) async fn gone(&mut self) -> io::Result<()> {
        self.pidfd.readable().await?.retain_ready();
        if let Some(child) = &mut self.child {
            child.wait()?;
        }
        Ok(())
    }
}
