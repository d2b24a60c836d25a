//! A server for the NBD protocol (network block device, `doc/proto.md` of the NBD project): one client, one disk.
//!
//! Spoken: the fixed newstyle handshake and simple replies. Refused politely: TLS (the socket has no path and no other
//! user), structured replies, metadata contexts. The client may be a VMM that a guest has taken over, so nothing it sends
//! is trusted: every length has a limit, every range is checked, and what makes no sense ends the connection with an
//! error.

mod handshake;
mod transmission;
mod wire;

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::device::BlockDevice;

pub use transmission::MAX_REQUEST;

/// How a connection ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The client said goodbye.
    Disconnected,
    /// The client closed the socket between two requests, as a VMM does that is killed.
    HungUp,
}

/// Why a connection was given up.
#[derive(Debug, thiserror::Error)]
pub enum NbdError {
    /// The socket failed, or ended in the middle of a message.
    #[error("the NBD connection failed: {0}")]
    Io(#[from] io::Error),
    /// The client broke the protocol.
    #[error("the NBD client broke the protocol: {0}")]
    Protocol(String),
}

/// Serves `device` to the client at the other end of `stream` until it goes away. Blocks: give it a thread.
///
/// Errors of the device are told to the client and do not end the connection. What the client wrote without a flush is
/// not flushed when it goes.
///
/// # Errors
/// When the socket fails or the client breaks the protocol. The socket is closed in every case.
#[expect(clippy::needless_pass_by_value, reason = "the connection ends with this call")]
pub fn serve(stream: UnixStream, device: Arc<dyn BlockDevice>) -> Result<Closed, NbdError> {
    // A caller's non-blocking socket would fail at the first wait.
    stream.set_nonblocking(false)?;
    serve_on(&mut &stream, device.as_ref())
}

fn serve_on<S: Read + Write>(stream: &mut S, device: &dyn BlockDevice) -> Result<Closed, NbdError> {
    match handshake::negotiate(stream, device.size())? {
        handshake::Outcome::Transmission => transmission::run(stream, device),
        handshake::Outcome::Ended(closed) => Ok(closed),
    }
}
