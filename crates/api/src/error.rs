use std::borrow::Cow;
use std::fmt::Display;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use model::FleetError;
use serde::Serialize;

/// What clients find in `error_code` when there is no room for another sandbox now.
const CAPACITY: &str = "sandbox_capacity_unavailable";
/// When trying again is worth it, in seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// An answer that is not success: `{"code", "message"}` with `code` equal to the status, which clients rely on.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: Cow<'static, str>,
    error_code: Option<&'static str>,
    retry: bool,
}

/// An error as clients read it, as an answer or within one.
#[derive(Serialize)]
pub(crate) struct ErrorBody<'a> {
    code: u16,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<&'a str>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), error_code: None, retry: false }
    }

    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(crate) fn body(&self) -> ErrorBody<'_> {
        ErrorBody { code: self.status.as_u16(), message: &self.message, error_code: self.error_code }
    }

    /// The machine-readable reason.
    pub(crate) const fn code(mut self, error_code: &'static str) -> Self {
        self.error_code = Some(error_code);
        self
    }

    /// No room now; the client is told when to try again.
    pub(crate) fn no_capacity(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retry: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code(CAPACITY) }
    }

    /// Too much is going on; the client is told when to try again.
    pub(crate) fn busy(message: impl Into<Cow<'static, str>>) -> Self {
        Self { retry: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message) }
    }

    /// Something here is broken. The reason is for the log, not for the client.
    pub(crate) fn internal(reason: &dyn Display) -> Self {
        tracing::error!(%reason, "request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal server error; the server's log has the reason")
            .code("internal_server_error")
    }
}

impl From<FleetError> for ApiError {
    fn from(error: FleetError) -> Self {
        let message = error.to_string();
        match error {
            FleetError::NotFound(_) => Self::new(StatusCode::NOT_FOUND, message),
            FleetError::LimitReached(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, message),
            FleetError::NoCapacity(_) => Self::no_capacity(message),
            FleetError::Conflict(_) => Self::new(StatusCode::CONFLICT, message),
            FleetError::NeedsReboot(_) => {
                Self::new(StatusCode::CONFLICT, message).code("sandbox_needs_reboot")
            }
            FleetError::StartFailed(_) => {
                tracing::warn!(reason = message, "a sandbox could not be started");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("sandbox_create_failed")
            }
            FleetError::Internal(_) => {
                tracing::error!(reason = message, "request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).code("internal_server_error")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if self.retry {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}

/// At most so many characters of what a client sent are repeated to it, none of them a control character.
pub(crate) fn shown(text: &str) -> String {
    const MAX_SHOWN: usize = 80;
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
}
