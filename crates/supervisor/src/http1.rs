//! The accept loop that both of a supervisor's HTTP/1.1 servers use.

use std::convert::Infallible;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

/// Whoever connects sends its request within this time, and its next one: it doubles as the idle timeout.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Both peers send small heads.
const MAX_HEADERS: usize = 32;
/// Room for the head of one request.
const MAX_BUFFER: usize = 16 << 10;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves one listener for ever. More than `connections` at once wait in the listen queue.
pub(crate) async fn serve<S, A, H, F>(connections: usize, mut accept: A, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    A: AsyncFnMut() -> std::io::Result<S>,
    H: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<Body>> + 'static,
{
    let room = std::sync::Arc::new(Semaphore::new(connections));
    let handler = Rc::new(handler);
    loop {
        let Ok(permit) = std::sync::Arc::clone(&room).acquire_owned().await else { return };
        let stream = match accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of descriptors or memory: give others time to release some.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let handler = Rc::clone(&handler);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_headers(MAX_HEADERS)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(stream), service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
}

/// The whole body, or the answer that refuses it.
pub(crate) async fn read_body(
    body: Incoming,
    limit: usize,
    patience: Duration,
) -> Result<Bytes, Response<Body>> {
    let collect = Box::pin(Limited::new(body, limit).collect());
    match select(collect, Box::pin(tokio::time::sleep(patience))).await {
        Either::Left((Ok(body), _)) => Ok(body.to_bytes()),
        Either::Left((Err(error), _)) => {
            Err(text(StatusCode::BAD_REQUEST, format!("reading the body: {error}")))
        }
        Either::Right(_) => {
            Err(text(StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {patience:?}")))
        }
    }
}

pub(crate) fn text(status: StatusCode, message: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Full::new(message.into()).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

pub(crate) fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut answer = text(StatusCode::OK, body);
            let json = http::HeaderValue::from_static("application/json");
            answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
            answer
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("writing the answer: {error}")),
    }
}
