//! A process that runs.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use connectrpc::ConnectError;
use envd_proto::process::{PTY, ProcessConfig, ProcessInfo};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};
use rustix::termios::tcsetwinsize;
use sys::readable::readable;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::hub::Hub;
use super::input::Input;
use super::terminal;

/// A process that runs, or has ended and has not been reaped yet.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    tag: Option<String>,
    config: ProcessConfig,
    pidfd: AsyncFd<OwnedFd>,
    terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    input: Arc<Input>,
    hub: Arc<Hub>,
    /// Cancelled when somebody wants it to end: its own end is enough then, whoever else holds its output.
    ending: CancellationToken,
}

/// What a process is made of.
pub(super) struct Parts {
    pub(super) pid: u32,
    pub(super) tag: Option<String>,
    pub(super) config: ProcessConfig,
    pub(super) pidfd: OwnedFd,
    pub(super) terminal: Option<Arc<AsyncFd<OwnedFd>>>,
    pub(super) input: Input,
    pub(super) hub: Arc<Hub>,
}

impl Process {
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        Ok(Self {
            pid: parts.pid,
            tag: parts.tag,
            config: parts.config,
            pidfd: readable(parts.pidfd)?,
            terminal: parts.terminal,
            input: Arc::new(parts.input),
            hub: parts.hub,
            ending: CancellationToken::new(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Program and arguments, for people.
    pub(super) fn command(&self) -> String {
        let words = std::iter::once(&self.config.cmd).chain(&self.config.args);
        words.map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(super) fn input(&self) -> Arc<Input> {
        Arc::clone(&self.input)
    }

    /// Cancelled when somebody has sent a signal that is meant to end it.
    pub(super) fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// How it looks in a list.
    pub(super) fn info(&self) -> ProcessInfo {
        ProcessInfo { config: self.config.clone().into(), pid: self.pid, tag: self.tag.clone() }
    }

    /// Sends a signal that is meant to end it. To the process only, not to what it started.
    ///
    /// # Errors
    /// `not_found` when it has ended.
    pub(super) fn signal(&self, signal: Signal) -> Result<(), ConnectError> {
        let sent = pidfd_send_signal(&self.pidfd, signal);
        self.ending.cancel();
        sent.map_err(|errno| match errno {
            Errno::SRCH => ConnectError::not_found(format!("process with pid {} not found", self.pid)),
            errno => ConnectError::internal(format!("error sending signal: {errno}")),
        })
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// `internal` when it has none.
    pub(super) fn resize(&self, size: &PTY) -> Result<(), ConnectError> {
        let terminal = self
            .terminal
            .as_ref()
            .ok_or_else(|| ConnectError::internal("error resizing tty: tty not assigned to process"))?;
        tcsetwinsize(terminal.get_ref(), terminal::size(size))
            .map_err(|errno| ConnectError::internal(format!("error resizing tty: {errno}")))
    }

    /// Waits until it has ended. It is still to be reaped then, so its id stays its own.
    pub(super) async fn ended(&self) {
        // An error means that there is no reactor any more, thus nothing that could wait.
        let _ = self.pidfd.readable().await;
    }

    /// Reaps it. Nothing when it has not ended, or cannot be waited for.
    pub(super) fn reap(&self) -> Option<WaitIdStatus> {
        let pidfd = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        waitid(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok().flatten()
    }
}
