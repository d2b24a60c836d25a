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
/// Bytes in them. One piece more may come while there are fewer, however large it is: that is limited elsewhere.
const MAX_WAITING_BYTES: usize = 64 << 20;

/// The input of one process.
#[derive(Debug)]
pub(super) struct Input {
    target: Target,
    waiting: Waiting,
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
        Self { target: Target::Pipe(Mutex::new(pipe)), waiting: Waiting::default() }
    }

    /// Input through a terminal.
    pub(super) fn terminal(terminal: Arc<AsyncFd<OwnedFd>>) -> Self {
        Self { target: Target::Terminal(Mutex::new(terminal)), waiting: Waiting::default() }
    }

    /// Writes a piece, after those that came before it, and waits while the process does not read.
    ///
    /// # Errors
    /// `internal` when the process has no such input (any more); `resource_exhausted` when too many pieces wait.
    pub(super) async fn write(&self, piece: Piece) -> Result<(), ConnectError> {
        let length = match &piece {
            Piece::Stdin(bytes) | Piece::Pty(bytes) => bytes.len(),
        };
        let _waiting = self.waiting.enter(length)?;
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
    /// `unknown` for a terminal, which has no end; `resource_exhausted` as above.
    pub(super) async fn close(&self) -> Result<(), ConnectError> {
        match &self.target {
            Target::Pipe(pipe) => {
                let _waiting = self.waiting.enter(0)?;
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

/// The pieces that wait.
#[derive(Debug, Default)]
struct Waiting {
    pieces: AtomicUsize,
    bytes: AtomicUsize,
}

/// One of them.
#[derive(Debug)]
struct Piecewise<'a> {
    waiting: &'a Waiting,
    bytes: usize,
}

impl Waiting {
    fn enter(&self, bytes: usize) -> Result<Piecewise<'_>, ConnectError> {
        let pieces = self.pieces.fetch_add(1, Ordering::Relaxed);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let entered = Piecewise { waiting: self, bytes };
        if pieces < MAX_WAITING && before < MAX_WAITING_BYTES {
            return Ok(entered);
        }
        Err(ConnectError::resource_exhausted(format!(
            "{pieces} pieces of input with {before} bytes already wait for the process to read them"
        )))
    }
}

impl Drop for Piecewise<'_> {
    fn drop(&mut self) {
        self.waiting.pieces.fetch_sub(1, Ordering::Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_limited_in_number_and_in_bytes() {
        let waiting = Waiting::default();
        let all: Vec<_> = (0..MAX_WAITING).map(|_| waiting.enter(1).unwrap()).collect();
        assert!(waiting.enter(0).is_err());
        drop(all);
        let large = waiting.enter(MAX_WAITING_BYTES + 1).unwrap();
        for _ in 0..2 {
            assert!(waiting.enter(1).unwrap_err().to_string().contains("already wait"));
        }
        drop(large);
        waiting.enter(1).unwrap();
        assert_eq!((waiting.pieces.into_inner(), waiting.bytes.into_inner()), (0, 0));
    }
}
