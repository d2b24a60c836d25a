//! The body of a request that a server answers, whether it wants the body or not.
//!
//! What nobody has read of it by the time it is dropped is read and thrown away, within limits: a server that closes
//! a connection on a client which is still sending resets it, and the client may lose the answer ([RFC 9112, 9.6]).
//! A refusal that a client gets to see as a broken connection is of no use to it.
//!
//! [RFC 9112, 9.6]: https://www.rfc-editor.org/rfc/rfc9112#section-9.6
#![forbid(unsafe_code)]

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;

/// Bytes of an upload that are read and thrown away after it was answered.
const MAX_DISCARDED_BYTES: u64 = 512 << 20;
/// How long that may take.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(30);

/// The body of a client's request.
#[derive(Debug)]
pub struct Upload {
    /// `None` for an empty one, and while it is being dropped.
    body: Option<Incoming>,
    /// Whether there is a rest that the client will send, answered or not.
    rest_will_come: bool,
}

impl Upload {
    /// The request with such a body. To be called before anything can refuse the request, in a Tokio runtime.
    #[must_use]
    pub fn of(request: Request<Incoming>) -> Request<Self> {
        // A client that waits for a go-ahead would get it when its body is read.
        let awaited = request.headers().contains_key(header::EXPECT);
        // On HTTP/2 a stream is closed without harm to what was answered on it.
        let sends_regardless = request.version() < Version::HTTP_2 && !awaited;
        request
            .map(|body| Self { rest_will_come: sends_regardless && !body.is_end_stream(), body: Some(body) })
    }

    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { body: None, rest_will_come: false }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(cx);
        // Once read from, the client has its go-ahead.
        this.rest_will_come = match &frame {
            Poll::Ready(None | Some(Err(_))) => false,
            Poll::Ready(Some(Ok(_))) => !body.is_end_stream(),
            Poll::Pending => this.rest_will_come,
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.rest_will_come {
            return;
        }
        if let (Some(body), Ok(runtime)) = (self.body.take(), Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(MAX_DISCARD_TIME, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = MAX_DISCARDED_BYTES;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use http_body_util::Full;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection to a server that refuses everything without looking at it.
    async fn refusing() -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let refuse = service_fn(|request| async {
                drop(Upload::of(request));
                Ok::<_, Infallible>(
                    Response::builder().status(401).body(Full::new(Bytes::from("no"))).unwrap(),
                )
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), refuse).await;
        });
        TcpStream::connect(address).await.unwrap()
    }

    async fn answers(client: &mut TcpStream, expected: usize) -> String {
        let mut text = Vec::new();
        while String::from_utf8_lossy(&text).matches("\r\n\r\nno").count() < expected {
            assert!(client.read_buf(&mut text).await.unwrap() > 0, "closed after {text:?}");
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_client_that_sends_late_sees_the_refusal_and_goes_on() {
        let mut client = refusing().await;
        for _ in 0..3 {
            client.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n").await.unwrap();
            assert!(answers(&mut client, 1).await.starts_with("HTTP/1.1 401"));
            client.write_all(&vec![b'x'; 100_000]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_waits_for_a_go_ahead_does_not_get_it() {
        let mut client = refusing().await;
        let head = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 100000\r\n\r\n";
        client.write_all(head).await.unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 401") && text.ends_with("no"), "{text}");
    }
}
