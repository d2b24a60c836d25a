//! Just enough of an HTTP client for one small request at a time to a server that we know.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// For the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(5);
/// `HTTP/1.1 204`
const STATUS_BYTES: usize = 12;

/// Posts a body and waits for the answer.
///
/// # Errors
/// When there is no answer in time, or it is not a success.
pub(super) async fn post(host: SocketAddr, path: &str, content_type: &str, body: &[u8]) -> io::Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
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
            Err(io::Error::other(format!("the answer is {:?}", String::from_utf8_lossy(&status))))
        }
    };
    tokio::time::timeout(TIMEOUT, exchange).await?
}
