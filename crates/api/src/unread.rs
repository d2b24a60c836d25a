//! Answers that come before the request was read to its end.
//!
//! What is left of a body is read and thrown away (crate `upload`), but not without end, and not when the client waits for a
//! go-ahead: then the server closes the connection, and a client that is not told meanwhile sends its next request on it
//! and gets no answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, Version, header};
use http_body::{Body as _, Frame, SizeHint};

/// Whether a request was read to its end.
pub(crate) struct Reading {
    ended: Arc<AtomicBool>,
    version: Version,
}

/// Watches how far a request is read.
pub(crate) fn watch(request: Request) -> (Request, Reading) {
    let ended = Arc::new(AtomicBool::new(request.body().is_end_stream()));
    let reading = Reading { ended: Arc::clone(&ended), version: request.version() };
    (request.map(|body| Body::new(Watched { body, ended })), reading)
}

impl Reading {
    /// Tells the client that its connection ends with this answer, when it does.
    pub(crate) fn finish(self, mut response: Response) -> Response {
        // Streams of HTTP/2 end one by one, and it knows no such header.
        if self.version < Version::HTTP_2 && !self.ended.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

struct Watched {
    body: Body,
    ended: Arc<AtomicBool>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.ended.store(true, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn closes(response: &Response) -> bool {
        response.headers().contains_key(header::CONNECTION)
    }

    #[tokio::test]
    async fn only_an_answer_to_half_a_request_closes() {
        let (_, reading) = watch(Request::new(Body::from("{}")));
        assert!(closes(&reading.finish(Response::default())));

        let (request, reading) = watch(Request::new(Body::from("{}")));
        assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "{}");
        assert!(!closes(&reading.finish(Response::default())));

        let (_, reading) = watch(Request::new(Body::empty()));
        assert!(!closes(&reading.finish(Response::default())));

        let mut request = Request::new(Body::from("{}"));
        *request.version_mut() = Version::HTTP_2;
        let (_, reading) = watch(request);
        assert!(!closes(&reading.finish(Response::default())));
    }
}
