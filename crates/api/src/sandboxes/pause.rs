//! `POST /sandboxes/{id}/pause`, `POST /sandboxes/{id}/resume`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use model::{FleetError, SandboxState};
use serde::Deserialize;

use super::connect::check_life;
use super::request::{timeout, unsupported};
use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::wire::Sandbox;

/// Also sent is `requireHealthyGuest`. It changes nothing: a pause with memory does not depend on the guest's help.
#[derive(Deserialize)]
pub(crate) struct Pause {
    memory: Option<bool>,
}

/// Pauses a sandbox; when the answer arrives, nothing of it can be lost any more.
pub(crate) async fn pause(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<Pause>,
) -> Result<StatusCode, ApiError> {
    if body.memory == Some(false) {
        return Err(unsupported("memory: false", "pausing without memory"));
    }
    detach(async move { Ok(state.fleet().pause(&team.id, &id).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Resume {
    timeout: Option<i64>,
    auto_pause: Option<bool>,
    memory: Option<bool>,
}

/// The older way to resume: unlike `connect`, it refuses a sandbox that runs.
pub(crate) async fn resume(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<Resume>,
) -> Result<Response, ApiError> {
    let max = state.max_life(&team);
    let wanted = match body.timeout {
        Some(seconds) => timeout("timeout", seconds, max)?,
        None => state.config().default_timeout_v1.min(max),
    };
    if body.memory == Some(false) {
        return Err(unsupported("memory: false", "resuming without memory"));
    }
    check_life(wanted)?;
    let domain = state.config().domain.clone();
    let record = detach(async move {
        let fleet = state.fleet();
        if fleet.get(&team.id, &id)?.state == SandboxState::Running {
            return Err(FleetError::Conflict(format!("Sandbox \"{id}\" is running already")).into());
        }
        let _place = state.pending().resume(&team, &id, fleet.as_ref())?;
        Ok(fleet.resume(&team.id, &id, wanted, body.auto_pause).await?)
    })
    .await?;
    Ok((StatusCode::CREATED, Json(Sandbox::new(&record, domain.as_deref()))).into_response())
}
