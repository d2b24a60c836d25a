//! `GET /sandboxes/{id}`, `DELETE /sandboxes/{id}`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use crate::ApiState;
use crate::auth::Caller;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::wire::SandboxDetail;

/// Everything about one sandbox, running or paused.
pub(crate) async fn show(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
) -> Result<Response, ApiError> {
    let record = state.fleet().get(&team.id, &id)?;
    Ok(Json(SandboxDetail::new(&record, state.config().domain.as_deref())).into_response())
}

/// Ends a sandbox, running or paused; when the answer arrives, everything it held is released.
pub(crate) async fn kill(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
) -> Result<StatusCode, ApiError> {
    detach(async move { Ok(state.fleet().kill(&team.id, &id).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}
