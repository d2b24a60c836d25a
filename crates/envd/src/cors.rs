//! Cross-origin requests: programs in browsers talk to sandboxes from anywhere. The token protects, not the origin.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");
const ANY: HeaderValue = HeaderValue::from_static("*");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Content-Encoding, Connect-Content-Encoding, Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin, Location, \
     Cache-Control, X-Content-Type-Options",
);
const PREFLIGHT_VARY: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");
const METHODS: [&str; 6] = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE"];

/// Answers preflight requests and marks all other answers as readable.
pub(crate) async fn allow_any_origin(request: Request, next: Next) -> Response {
    let has_origin = request.headers().contains_key(header::ORIGIN);
    if request.method() == Method::OPTIONS
        && let Some(wanted) = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)
    {
        return preflight(wanted, request.headers(), has_origin);
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    if has_origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    response
}

fn preflight(wanted: &HeaderValue, request: &HeaderMap, has_origin: bool) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::VARY, PREFLIGHT_VARY);
    if has_origin && METHODS.iter().any(|method| wanted.as_bytes().eq_ignore_ascii_case(method.as_bytes())) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, wanted.clone());
        if let Some(names) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
    (StatusCode::NO_CONTENT, headers).into_response()
}
