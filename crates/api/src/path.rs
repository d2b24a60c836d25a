//! Path segments, each percent-decoded by itself.

use axum::extract::{FromRequestParts, Path};
use http::StatusCode;
use http::request::Parts;
use model::SandboxId;

use crate::ApiState;
use crate::error::{ApiError, shown};

/// The one variable segment of a path, as text.
pub(crate) struct Segment(pub(crate) String);

impl FromRequestParts<ApiState> for Segment {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(text)| Self(text)).map_err(|error| ApiError::bad_request(error.body_text()))
    }
}

/// A sandbox named in a path as `id` or, the way old clients write it, `id-clientid`.
pub(crate) struct SandboxPath(pub(crate) SandboxId);

impl FromRequestParts<ApiState> for SandboxPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, ApiError> {
        let Segment(text) = Segment::from_request_parts(parts, state).await?;
        // What cannot be an id is the id of no sandbox: clients understand that answer.
        short_id(&text).map(Self).ok_or_else(|| {
            let message =
                format!("Sandbox \"{}\" doesn't exist or you don't have access to it", shown(&text));
            ApiError::new(StatusCode::NOT_FOUND, message)
        })
    }
}

/// Reads `id` or `id-clientid`.
pub(crate) fn short_id(text: &str) -> Option<SandboxId> {
    text.split('-').next().and_then(|id| id.parse().ok())
}
