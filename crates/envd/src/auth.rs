//! The access token: whoever holds it may do everything in this sandbox.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode};

use crate::error::HttpError;
use crate::state::Envd;

/// The header that carries it.
pub(crate) const ACCESS_TOKEN_HEADER: &str = "x-access-token";

/// What a request without it hears. Clients show the text to people.
pub(crate) const UNAUTHORIZED: &str =
    "unauthorized access, please provide a valid access token or method signing if supported";

/// Requests that are let through: a health check is harmless, `/files` may be signed instead (and checks that
/// itself), `/init` is what brings the token and checks it itself. Nothing else, and no other method, HEAD included.
fn is_exempt(method: &Method, path: &str) -> bool {
    matches!((method.as_str(), path), ("GET", "/health") | ("GET" | "POST", "/files") | ("POST", "/init"))
}

/// Refuses requests without the access token, once there is one.
pub(crate) async fn require_token(State(envd): State<Arc<Envd>>, request: Request, next: Next) -> Response {
    if let Some(token) = envd.access_token()
        && !is_exempt(request.method(), request.uri().path())
    {
        let given = request.headers().get(ACCESS_TOKEN_HEADER).and_then(|value| value.to_str().ok());
        if !given.is_some_and(|given| token.matches(given)) {
            return HttpError::unauthorized(UNAUTHORIZED).into_response();
        }
    }
    next.run(request).await
}

/// Refuses whoever is not the host. A daemon that knows its host obeys nobody else in what is the host's alone: processes
/// in the machine can reach it, too. One that knows of none leaves it to the token.
///
/// # Errors
/// 403.
pub(crate) fn require_host(envd: &Envd, peer: IpAddr) -> Result<(), HttpError> {
    if envd.options().host.is_some() && !envd.options().is_host(peer) {
        return Err(HttpError::new(StatusCode::FORBIDDEN, "only the host may ask for this"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_exemptions() {
        assert!(is_exempt(&Method::GET, "/health") && is_exempt(&Method::POST, "/init"));
        assert!(is_exempt(&Method::GET, "/files") && is_exempt(&Method::POST, "/files"));
        for (method, path) in [
            (Method::HEAD, "/files"),
            (Method::HEAD, "/health"),
            (Method::POST, "/health"),
            (Method::GET, "/init"),
            (Method::GET, "/files/"),
            (Method::POST, "/files/compose"),
            (Method::GET, "/envs"),
            (Method::POST, "/process.Process/List"),
        ] {
            assert!(!is_exempt(&method, path), "{method} {path}");
        }
    }
}
