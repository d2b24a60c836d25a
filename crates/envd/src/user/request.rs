//! The user a request names.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectrpc::ConnectError;
use http::{Extensions, HeaderMap, header};

use super::{UnknownUser, User};
use crate::connect;
use crate::state::Envd;

/// Looks up the user that a request names and keeps it with the request. A name that nobody has ends the request here,
/// whatever it wants: a Connect error on every route, which is what clients understand.
pub(crate) async fn authenticate(mut request: Request, next: Next) -> Response {
    if let Some(name) = basic_auth_user(request.headers()) {
        match User::by_name(&name).await {
            Ok(user) => {
                request.extensions_mut().insert(Arc::new(user));
            }
            Err(unknown) => {
                return connect::error_response(&unknown.into(), request.headers());
            }
        }
    }
    next.run(request).await
}

/// The user a request acts for: the one it names, else the default user. Give it the extensions of the request
/// (`ctx.extensions()` in a Connect handler, the `Parts` elsewhere).
///
/// # Errors
/// [`UnknownUser`] when the default user does not exist.
pub(crate) async fn request_user(envd: &Envd, extensions: &Extensions) -> Result<Arc<User>, UnknownUser> {
    match extensions.get::<Arc<User>>() {
        Some(user) => Ok(Arc::clone(user)),
        None => User::by_name(&envd.default_user()).await.map(Arc::new),
    }
}

impl From<UnknownUser> for ConnectError {
    fn from(unknown: UnknownUser) -> Self {
        Self::unauthenticated(unknown.to_string())
    }
}

/// The name in `Authorization: Basic …`. A header that is not that names nobody, as when it is absent.
fn basic_auth_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credentials) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(name, _password)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_name_and_only_the_name() {
        for (value, expected) in [
            ("Basic dXNlcjo=", Some("user")),
            ("basic cm9vdDpzZWNyZXQ=", Some("root")),
            ("Basic !", None),
            ("Basic dXNlcg==", None),
            ("Bearer dXNlcjo=", None),
            ("Basic", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            assert_eq!(basic_auth_user(&headers).as_deref(), expected, "{value}");
        }
    }
}
