//! `POST /sandboxes/{id}/pause`, `POST /sandboxes/{id}/resume`.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use model::{FleetError, SandboxState};
use serde::Deserialize;

use super::connect::{check_life, started, way_back};
use super::request::timeout;
use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;

/// Also sent is `requireHealthyGuest`. It changes nothing: a pause with memory does not depend on the guest's help, and one
/// without does not come about without it.
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
    let memory = body.memory != Some(false);
    detach(async move { Ok(state.fleet().pause(&team.id, &id, memory).await?) }).await?;
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
    check_life(wanted)?;
    let way = way_back(body.memory);
    let domain = state.config().domain.clone();
    let record = detach(async move {
        let fleet = state.fleet();
        if fleet.get(&team.id, &id)?.state == SandboxState::Running {
            return Err(FleetError::Conflict(format!("Sandbox \"{id}\" is running already")).into());
        }
        let _place = state.pending().resume(&team, &id, fleet.as_ref())?;
        Ok(fleet.resume(&team.id, &id, wanted, way, body.auto_pause).await?)
    })
    .await?;
    Ok(started(&record, domain.as_deref()))
}
