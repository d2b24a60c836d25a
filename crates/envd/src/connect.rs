//! What both Connect services share: how they are mounted, their limits, and errors in the protocol's form.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::post_service;
use bytes::{BufMut, Bytes, BytesMut};
use connectrpc::{CompressionPolicy, ConnectError, ConnectRpcService, DeadlinePolicy, Limits};
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// Largest request, in bytes: input for a process comes in one message. It holds the decoded message as well, so a
/// client can make the daemon use a few times this much.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// The longest timeout that the protocol allows, in decimal digits of milliseconds.
const MAX_TIMEOUT_DIGITS: usize = 10;

const TIMEOUT_HEADER: &str = "connect-timeout-ms";
/// Marks the last message of a stream.
const END_STREAM_FLAG: u8 = 0b10;

/// Mounts a Connect service. Only paths of methods that exist are routed, so that all else is an ordinary 404.
pub(crate) fn mount(service: connectrpc::Router) -> Router {
    let paths: Vec<String> = service.methods().map(|method| format!("/{method}")).collect();
    let limits = Limits::default()
        .with_max_request_body_size(MAX_REQUEST_BYTES)
        .with_max_message_size(MAX_REQUEST_BYTES);
    let service = ConnectRpcService::new(service)
        .with_limits(limits)
        .with_compression_policy(CompressionPolicy::disabled())
        .with_deadline_policy(DeadlinePolicy::new().with_enforce_on_streams(true));
    let mut router = Router::new();
    for path in paths {
        router = router.route(&path, post_service(service.clone()));
    }
    router.layer(from_fn(check_headers))
}

/// Refuses timeouts that are none, and hides that the client would take compressed answers: on one machine, compressing
/// costs more than it saves.
async fn check_headers(mut request: Request, next: Next) -> Response {
    let headers = request.headers_mut();
    headers.remove(header::ACCEPT_ENCODING);
    headers.remove("connect-accept-encoding");
    if let Some(timeout) = headers.get(TIMEOUT_HEADER) {
        let text = timeout.as_bytes();
        if text.is_empty() || text.len() > MAX_TIMEOUT_DIGITS || !text.iter().all(u8::is_ascii_digit) {
            let error = ConnectError::invalid_argument(format!(
                "protocol error: the timeout {timeout:?} is not a number of milliseconds of at most \
                 {MAX_TIMEOUT_DIGITS} digits"
            ));
            return error_response(&error, request.headers());
        }
        // No time at all is no use to anybody; clients that write it mean "no limit".
        if text.iter().all(|digit| *digit == b'0') {
            headers.remove(TIMEOUT_HEADER);
        }
    }
    next.run(request).await
}

/// An error as the client of this request expects it: a stream always succeeds and ends with the error.
pub(crate) fn error_response(error: &ConnectError, request: &HeaderMap) -> Response {
    let content_type = request.get(header::CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/connect+"));
    let json = error.to_json();
    if !is_stream {
        return (error.http_status(), [(header::CONTENT_TYPE, "application/json")], json).into_response();
    }
    let mut response = Response::new(Body::from(end_of_stream(&json)));
    *response.status_mut() = StatusCode::OK;
    let content_type = content_type.cloned().unwrap_or(HeaderValue::from_static("application/connect+json"));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The last message of a stream that failed.
fn end_of_stream(error: &[u8]) -> Bytes {
    const OPEN: &[u8] = br#"{"error":"#;
    let length = OPEN.len() + error.len() + 1;
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(END_STREAM_FLAG);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(OPEN);
    frame.put_slice(error);
    frame.put_u8(b'}');
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn an_error_has_the_form_of_its_request() {
        let error = ConnectError::unauthenticated("no");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let response = error_response(&error, &headers);
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"code":"unauthenticated","message":"no"}"#);

        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/connect+proto"));
        let response = error_response(&error, &headers);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/connect+proto");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body[0], END_STREAM_FLAG);
        assert_eq!(&body[5..], br#"{"error":{"code":"unauthenticated","message":"no"}}"#);
        assert_eq!(
            usize::try_from(u32::from_be_bytes(body[1..5].try_into().unwrap())).unwrap(),
            body.len() - 5
        );
    }
}
