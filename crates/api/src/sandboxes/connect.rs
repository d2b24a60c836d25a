//! `POST /sandboxes/{id}/connect`, `POST /v2/sandboxes/{id}/connect`: a sandbox is made sure to run, and its client told
//! how to reach it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use catalog::Team;
use http::StatusCode;
use model::{Connected, FleetError, SandboxId, SandboxState};
use serde::Deserialize;

use super::lifetime::move_end;
use super::request::{timeout, unsupported};
use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::wire::Sandbox;

#[derive(Deserialize)]
pub(crate) struct ConnectV1 {
    timeout: i64,
    memory: Option<bool>,
}

#[derive(Deserialize)]
pub(crate) struct ConnectV2 {
    timeout: Option<i64>,
    memory: Option<bool>,
}

/// A running sandbox lives at least `timeout` longer (200); a paused one is resumed and lives so long (201).
pub(crate) async fn connect_v1(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<ConnectV1>,
) -> Result<Response, ApiError> {
    answer(state, team, id, Some(body.timeout), body.memory).await
}

/// Like [`connect_v1`] with a default. Its `memory` concerns paused sandboxes only.
pub(crate) async fn connect_v2(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<ConnectV2>,
) -> Result<Response, ApiError> {
    answer(state, team, id, body.timeout, body.memory).await
}

async fn answer(
    state: ApiState,
    team: Team,
    id: SandboxId,
    seconds: Option<i64>,
    memory: Option<bool>,
) -> Result<Response, ApiError> {
    let max = state.max_life(&team);
    let wanted = match seconds {
        Some(seconds) => timeout("timeout", seconds, max)?,
        None => state.config().default_timeout_v2.min(max),
    };
    let domain = state.config().domain.clone();
    let connected =
        detach(async move { connect(&state, &team, &id, wanted, memory != Some(false)).await }).await?;
    let status = if connected.resumed { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Sandbox::new(&connected.record, domain.as_deref()))).into_response())
}

async fn connect(
    state: &ApiState,
    team: &Team,
    id: &SandboxId,
    wanted: Duration,
    with_memory: bool,
) -> Result<Connected, ApiError> {
    let record = state.fleet().get(&team.id, id)?;
    if record.state == SandboxState::Running {
        // Bounded by what is left of its life, which must never become the life of a sandbox that is resumed.
        match move_end(state, team, id, &record, wanted, true).await {
            Ok(record) => return Ok(Connected { record, resumed: false }),
            // It was paused meanwhile, or is still being resumed.
            Err(FleetError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !with_memory {
        return Err(unsupported("memory: false", "resuming without memory"));
    }
    check_life(wanted)?;
    let _place = state.pending().resume(team, id, state.fleet().as_ref())?;
    Ok(state.fleet().connect(&team.id, id, wanted).await?)
}

/// A resumed sandbox without time to live would end, perhaps for good, before its client could do anything.
pub(super) fn check_life(timeout: Duration) -> Result<(), ApiError> {
    if timeout.is_zero() {
        return Err(ApiError::bad_request("timeout must be at least 1 second to resume a paused sandbox"));
    }
    Ok(())
}
