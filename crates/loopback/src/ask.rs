//! Asking the daemon for a connection to a port.

use std::io;

use model::GuestPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::answer::{AnswerHead, BadAnswer, Taken};
use crate::authority::authority;

/// Bytes of an answer looked at in one go: all of one of the daemon's own.
const PIECE: usize = 512;

/// Why there is no connection to a port.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens there, or the daemon is one that does not know this question.
    #[error("nothing listens on that port inside the guest")]
    Refused,
    /// The daemon could not make the connection.
    #[error("the guest's daemon answered with status {0}")]
    Status(u16),
    /// The daemon, or what took its place, did not answer as it should.
    #[error("the guest's daemon: {0}")]
    Answer(#[from] BadAnswer),
    /// It closed the connection instead.
    #[error("the guest's daemon closed the connection before it answered")]
    Closed,
    /// The connection to it broke.
    #[error("asking the guest's daemon failed: {0}")]
    Io(#[from] io::Error),
}

/// Asks the daemon on the other side of a fresh connection for one to `port` on its machine's loopback. On success the
/// connection leads there; not a byte that came after the answer is taken from it. Sets no deadline: a guest need not
/// answer.
///
/// # Errors
/// See [`AskError`]; the connection is of no use then.
pub async fn ask(daemon: &mut TcpStream, port: GuestPort) -> Result<(), AskError> {
    let target = authority(port);
    daemon.write_all(format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n").as_bytes()).await?;
    let mut head = AnswerHead::default();
    let mut piece = [0; PIECE];
    loop {
        // Looked at before it is taken, since what follows the head is not ours.
        let there = daemon.peek(&mut piece).await?;
        if there == 0 {
            return Err(AskError::Closed);
        }
        let taken = head.take(&piece[..there])?;
        let (length, status) = match taken {
            Taken::All => (there, None),
            Taken::Head { length, status } => (length, Some(status)),
        };
        daemon.read_exact(&mut piece[..length]).await?;
        match status {
            None => {}
            Some(200) => return Ok(()),
            // 502 is how the daemon says it. One of before it could be asked refuses the method or the path, or wants
            // its token before anything else.
            Some(400 | 401 | 404 | 405 | 501 | 502) => return Err(AskError::Refused),
            Some(status) => return Err(AskError::Status(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Asks a daemon that answers with these bytes, one after the other with a pause if `slowly`, and closes. Also what
    /// is left of them afterwards, and what it was asked.
    async fn answered(bytes: &[u8], slowly: bool) -> (Result<(), AskError>, Vec<u8>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let daemon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = String::new();
            while !asked.ends_with("\r\n\r\n") {
                asked.push(char::from(stream.read_u8().await.unwrap()));
            }
            for piece in bytes.chunks(if slowly { 1 } else { bytes.len().max(1) }) {
                // Whoever has heard enough hangs up.
                let _ = stream.write_all(piece).await;
                if slowly {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            asked
        };
        let client = async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let result = ask(&mut stream, GuestPort::new(3000).unwrap()).await;
            let mut rest = Vec::new();
            if result.is_ok() {
                stream.read_to_end(&mut rest).await.unwrap();
            }
            (result, rest)
        };
        let both = async { tokio::join!(daemon, client) };
        let (asked, (result, rest)) = tokio::time::timeout(PATIENCE, both).await.unwrap();
        (result, rest, asked)
    }

    #[tokio::test]
    async fn what_follows_the_head_is_left_alone() {
        for rest in ["", "x", "\r\n\r\nmore", "HTTP/1.1 502 Bad Gateway\r\n\r\n"] {
            for slowly in [false, true] {
                let (result, left, asked) =
                    answered(format!("HTTP/1.1 200 OK\r\ndate: x\r\n\r\n{rest}").as_bytes(), slowly).await;
                assert!(result.is_ok(), "{result:?}");
                assert_eq!(left, rest.as_bytes());
                assert_eq!(asked, "CONNECT localhost:3000 HTTP/1.1\r\nhost: localhost:3000\r\n\r\n");
            }
        }
        // More than is looked at in one go.
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(3000));
        let (result, left, _) = answered((head + "rest").as_bytes(), false).await;
        assert!(result.is_ok() && left == b"rest", "{result:?}");
    }

    #[tokio::test]
    async fn whatever_else_comes_is_an_error() {
        for status in [400, 401, 404, 405, 501, 502] {
            let (result, ..) =
                answered(format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\n\r\n{{}}").as_bytes(), false)
                    .await;
            assert!(matches!(result, Err(AskError::Refused)), "{status} {result:?}");
        }
        for status in [100, 101, 204, 302, 403, 500, 503, 504] {
            let (result, ..) = answered(format!("HTTP/1.1 {status} x\r\n\r\n").as_bytes(), false).await;
            assert!(matches!(result, Err(AskError::Status(given)) if given == status), "{status} {result:?}");
        }
        for slowly in [false, true] {
            let (result, ..) = answered(b"SSH-2.0-OpenSSH\r\n", slowly).await;
            assert!(matches!(result, Err(AskError::Answer(BadAnswer::NotHttp))), "{result:?}");
            for early in ["", "HTTP/1.1 200 OK\r\nx: y\r\n"] {
                let (result, ..) = answered(early.as_bytes(), slowly).await;
                assert!(matches!(result, Err(AskError::Closed)), "{result:?}");
            }
        }
        let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"x: y\r\n".repeat(100_000)].concat();
        let (result, ..) = answered(&endless, false).await;
        assert!(matches!(result, Err(AskError::Answer(BadAnswer::TooLong))), "{result:?}");
    }
}
