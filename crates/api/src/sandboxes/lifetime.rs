//! `POST /sandboxes/{id}/timeout`, `…/refreshes`, `…/connect`.
//!
//! A request for more time than a sandbox may have at all is refused. One that fits, but would take this sandbox beyond
//! its longest life counted from its start, gets what is left of it: the end time in the sandbox's details says so.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use catalog::Team;
use http::StatusCode;
use jiff::Timestamp;
use model::{SandboxId, SandboxRecord};
use serde::Deserialize;

use super::request::timeout;
use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::wire::Sandbox;

/// The longest extension by `refreshes`, by E2B's specification.
const MAX_REFRESH: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
pub(crate) struct SetTimeout {
    timeout: i64,
}

/// Moves the end time, to earlier or later; zero ends the sandbox now.
pub(crate) async fn set_timeout(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<SetTimeout>,
) -> Result<StatusCode, ApiError> {
    let wanted = timeout("timeout", body.timeout, state.max_life(&team))?;
    move_end(state, team, id, wanted, false).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(crate) struct Refresh {
    duration: Option<i64>,
}

/// Keeps a sandbox alive for a while, never for less than it already has.
pub(crate) async fn refresh(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<Refresh>,
) -> Result<StatusCode, ApiError> {
    let max = MAX_REFRESH.min(state.max_life(&team));
    let wanted = match body.duration {
        Some(seconds) => timeout("duration", seconds, max)?,
        None => state.config().default_timeout_v1.min(max),
    };
    move_end(state, team, id, wanted, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub(crate) struct ConnectV1 {
    timeout: i64,
}

#[derive(Deserialize)]
pub(crate) struct ConnectV2 {
    timeout: Option<i64>,
}

/// Tells a client how to reach a running sandbox, which then lives at least `timeout` longer.
pub(crate) async fn connect_v1(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<ConnectV1>,
) -> Result<Response, ApiError> {
    connect(state, team, id, Some(body.timeout)).await
}

/// Like [`connect_v1`] with a default. Its `memory` concerns paused sandboxes only.
pub(crate) async fn connect_v2(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<ConnectV2>,
) -> Result<Response, ApiError> {
    connect(state, team, id, body.timeout).await
}

async fn connect(
    state: ApiState,
    team: Team,
    id: SandboxId,
    seconds: Option<i64>,
) -> Result<Response, ApiError> {
    let max = state.max_life(&team);
    let wanted = match seconds {
        Some(seconds) => timeout("timeout", seconds, max)?,
        None => state.config().default_timeout_v2.min(max),
    };
    let record = move_end(state.clone(), team, id, wanted, true).await?;
    Ok(Json(Sandbox::new(&record, state.config().domain.as_deref())).into_response())
}

async fn move_end(
    state: ApiState,
    team: Team,
    id: SandboxId,
    wanted: Duration,
    only_extend: bool,
) -> Result<SandboxRecord, ApiError> {
    let record = state.fleet().get(&team.id, &id)?;
    let age = Timestamp::now().duration_since(record.spec.started_at);
    let age = Duration::try_from(age).unwrap_or_default();
    let left = state.max_life(&team).saturating_sub(age);
    let timeout = wanted.min(left);
    detach(async move { Ok(state.fleet().set_timeout(&team.id, &id, timeout, only_extend).await?) }).await
}
