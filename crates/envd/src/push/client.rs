//! Just enough of an HTTP client for one small request at a time to a server that we know.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::net::sockopt;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// For the whole exchange. The host is one hop away and answers from memory; one that does not is not there any more,
/// as after a resume elsewhere.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The same in milliseconds, for the kernel: nothing of a connection that was given up is to be sent for longer.
const TIMEOUT_MS: u32 = 2_000;
/// `HTTP/1.1 204`
const STATUS_BYTES: usize = 12;

/// Why a request was not a success.
#[derive(Debug, Error)]
pub(super) enum PostError {
    /// There was no answer, which says nothing about whether the request has come.
    #[error("{0}")]
    Unreachable(#[from] io::Error),
    /// There was one.
    #[error("the answer is {0:?}")]
    Refused(String),
}

/// Posts a body and waits for the answer.
///
/// # Errors
/// When there is no answer in time, or it is not a success.
pub(super) async fn post(
    host: SocketAddr,
    path: &str,
    content_type: &str,
    body: &[u8],
) -> Result<(), PostError> {
    let exchange = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        // Best effort: without it the kernel tries for some minutes.
        let _ = sockopt::set_tcp_user_timeout(&stream, TIMEOUT_MS);
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        stream.write_all(&request).await?;
        let mut status = [0; STATUS_BYTES];
        stream.read_exact(&mut status).await?;
        if status.starts_with(b"HTTP/1.1 2") {
            Ok(())
        } else {
            Err(PostError::Refused(String::from_utf8_lossy(&status).into_owned()))
        }
    };
    tokio::time::timeout(TIMEOUT, exchange).await.map_err(io::Error::from)?
}
