//! Writes what a process is to read.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use connectrpc::ConnectError;
use envd_proto::process::process_input::Input as Piece;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::Mutex;

/// Pieces of input that may wait for one process to read. Each is a task that holds its bytes.
const MAX_WAITING: usize = 64;

/// The input of one process.
#[derive(Debug)]
pub(super) struct Input {
    target: Target,
    waiting: AtomicUsize,
}

#[derive(Debug)]
enum Target {
    /// Standard input, until it is closed; absent from the beginning when the process was started without.
    Pipe(Mutex<Option<AsyncFd<OwnedFd>>>),
    /// A terminal. The lock keeps pieces in one piece.
    Terminal(Mutex<Arc<AsyncFd<OwnedFd>>>),
}

impl Input {
    /// Input through a pipe; none when absent.
    pub(super) fn pipe(pipe: Option<AsyncFd<OwnedFd>>) -> Self {
        Self { target: Target::Pipe(Mutex::new(pipe)), waiting: AtomicUsize::new(0) }
    }

    /// Input through a terminal.
    pub(super) fn terminal(terminal: Arc<AsyncFd<OwnedFd>>) -> Self {
        Self { target: Target::Terminal(Mutex::new(terminal)), waiting: AtomicUsize::new(0) }
    }

    /// Writes a piece, after those that came before it, and waits while the process does not read.
    ///
    /// # Errors
    /// `internal` when the process has no such input (any more); `resource_exhausted` when too many pieces wait.
    pub(super) async fn write(&self, piece: Piece) -> Result<(), ConnectError> {
        let Some(_waiting) = Waiting::new(&self.waiting) else {
            let message = format!("{MAX_WAITING} pieces of input already wait for the process to read them");
            return Err(ConnectError::resource_exhausted(message));
        };
        match (&self.target, piece) {
            (Target::Pipe(pipe), Piece::Stdin(bytes)) => match &*pipe.lock().await {
                Some(pipe) => write_all(pipe, &bytes).await.map_err(|error| failed("stdin", error)),
                None => Err(ConnectError::internal("error writing to stdin: stdin not enabled or closed")),
            },
            (Target::Terminal(terminal), Piece::Pty(bytes)) => {
                write_all(&*terminal.lock().await, &bytes).await.map_err(|error| failed("tty", error))
            }
            (Target::Terminal(_), Piece::Stdin(_)) => Err(ConnectError::internal(
                "error writing to stdin: tty assigned to process, input should be written to the pty, not the stdin",
            )),
            (Target::Pipe(_), Piece::Pty(_)) => {
                Err(ConnectError::internal("error writing to tty: tty not assigned to process"))
            }
        }
    }

    /// Ends standard input, after the pieces that came before. Again is fine.
    ///
    /// # Errors
    /// `unknown` for a terminal, which has no end.
    pub(super) async fn close(&self) -> Result<(), ConnectError> {
        match &self.target {
            Target::Pipe(pipe) => {
                pipe.lock().await.take();
                Ok(())
            }
            Target::Terminal(_) => Err(ConnectError::unknown(
                "error closing stdin: cannot close stdin for PTY process, send Ctrl+D (0x04) instead",
            )),
        }
    }
}

fn failed(what: &str, error: std::io::Error) -> ConnectError {
    ConnectError::internal(format!("error writing to {what}: {error}")).with_source(error)
}

async fn write_all(file: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file.get_ref(), bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            // What was known to be writable before this write no longer counts; what became so since is seen by the
            // write that follows.
            Err(Errno::AGAIN) => file.writable().await?.clear_ready(),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// One of the pieces that wait.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Option<Self> {
        if count.fetch_add(1, Ordering::Relaxed) < MAX_WAITING {
            return Some(Self(count));
        }
        count.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
