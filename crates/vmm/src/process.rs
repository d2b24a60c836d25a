//! A monitor's process: found by its pidfd, never by its number, and collected exactly once.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};
use sys::readable::readable;
use tokio::io::AsyncReadExt;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::exit::{Exit, ExitCause};

/// How much of the end of a monitor's complaints is kept, in bytes.
const MAX_MESSAGE: usize = 4096;

/// How long the rest of a dead monitor's output may take. It is in the pipe already; only a descendant that inherited
/// the pipe, which the confinement forbids, could keep it open.
const DRAIN: Duration = Duration::from_secs(1);

/// A child process and the task that waits for it. Dropping it kills the child.
#[derive(Debug)]
pub(crate) struct Process {
    pid: i32,
    pidfd: Arc<OwnedFd>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Process {
    /// Starts `command` with its standard error kept for the [`Exit`]. `explain` may tell, once the process is gone, a
    /// better cause than its status.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn spawn<F>(mut command: Command, explain: F) -> io::Result<Self>
    where
        F: Future<Output = Option<ExitCause>> + Send + 'static,
    {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = sys::child::spawn_lasting(command)?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        // Nobody else waits for this child, so until we do its number is its own.
        let opened = Pid::from_raw(pid)
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .map_err(io::Error::from)
            .and_then(|pidfd| {
                let pidfd = Arc::new(pidfd);
                Ok((Arc::clone(&pidfd), readable(pidfd)?))
            });
        let (pidfd, waiting) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(error);
            }
        };
        let (sender, exit) = watch::channel(None);
        let stderr = child.stderr.take();
        tokio::spawn(async move {
            let output = tokio::spawn(tail(stderr));
            let status = collect(&waiting).await;
            let cause = match status {
                // A signal is the truth whatever was said before it.
                ExitCause::Signal(_) => status,
                _ => timeout(DRAIN, explain).await.ok().flatten().unwrap_or(status),
            };
            let message = timeout(DRAIN, output).await.ok().and_then(Result::ok).unwrap_or_default();
            sender.send_replace(Some(Exit { cause, message }));
        });
        Ok(Self { pid, pidfd, exit })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    pub(crate) fn kill(&self) {
        match pidfd_send_signal(self.pidfd.as_fd(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::error!(pid = self.pid, %error, "cannot kill the VMM"),
        }
    }

    pub(crate) async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone(),
            // The task is gone without a word: its runtime is shutting down.
            Err(_) => None,
        }
        .unwrap_or(Exit { cause: ExitCause::Unknown, message: String::new() })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits until the process is gone and collects its status.
async fn collect(pidfd: &AsyncFd<Arc<OwnedFd>>) -> ExitCause {
    loop {
        // Readable means gone. A failure to wait for that leaves asking, which blocks nobody but this task's thread
        // and which ends when the process does.
        let Ok(mut ready) = pidfd.readable().await else {
            return ExitCause::Unknown;
        };
        match waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => {
                let signal = status.terminating_signal().map(ExitCause::Signal);
                let code = status.exit_status().map(ExitCause::Monitor);
                return signal.or(code).unwrap_or(ExitCause::Unknown);
            }
            Ok(None) => ready.clear_ready(),
            Err(Errno::INTR) => {}
            Err(_) => return ExitCause::Unknown,
        }
    }
}

/// Reads everything and keeps the end, as one line.
async fn tail(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr.and_then(|pipe| tokio::process::ChildStderr::from_std(pipe).ok()) else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut chunk = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut chunk).await {
        kept.extend_from_slice(&chunk[..length]);
        if kept.len() > MAX_MESSAGE {
            kept.drain(..kept.len() - MAX_MESSAGE);
        }
    }
    one_line(&kept)
}

/// Text from a process that is not trusted, fit for a log.
fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    async fn no_better() -> Option<ExitCause> {
        None
    }

    #[tokio::test]
    async fn status_and_complaints_are_reported_to_everyone_who_waits() {
        let process =
            Process::spawn(shell("echo one >&2; printf '\\033[1mtwo' >&2; exit 3"), no_better()).unwrap();
        let (first, second) = tokio::join!(process.wait(), process.wait());
        assert_eq!(first, Exit { cause: ExitCause::Monitor(3), message: "one; [1mtwo".into() });
        assert_eq!(first, second);
        assert_eq!(process.wait().await, first);
        process.kill();
    }

    #[tokio::test]
    async fn kill_is_final_and_may_be_repeated() {
        let process =
            Process::spawn(shell("trap '' TERM; exec sleep 60"), async { Some(ExitCause::GuestReset) })
                .unwrap();
        process.kill();
        process.kill();
        assert_eq!(process.wait().await.cause, ExitCause::Signal(9));
        process.kill();
    }

    #[tokio::test]
    async fn an_explanation_beats_a_plain_status() {
        let process = Process::spawn(shell("exit 0"), async { Some(ExitCause::GuestShutdown) }).unwrap();
        assert_eq!(process.wait().await.cause, ExitCause::GuestShutdown);
    }

    #[tokio::test]
    async fn dropping_kills() {
        let process = Process::spawn(shell("exec sleep 60"), no_better()).unwrap();
        let mut exit = process.exit.clone();
        drop(process);
        let exit =
            timeout(Duration::from_secs(10), exit.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
        assert_eq!(exit.unwrap().cause, ExitCause::Signal(9));
    }

    #[tokio::test]
    async fn endless_complaints_are_cut() {
        let process =
            Process::spawn(shell("yes 12345678901234567890 | head -c 1000000 >&2"), no_better()).unwrap();
        assert!(process.wait().await.message.len() <= 2 * MAX_MESSAGE);
    }

    #[tokio::test]
    async fn a_missing_program_is_an_error() {
        let error = Process::spawn(Command::new("/nonexistent/vmm"), no_better()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
