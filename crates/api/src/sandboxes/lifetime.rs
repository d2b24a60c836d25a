//! `POST /sandboxes/{id}/timeout`, `…/refreshes`.
//!
//! A request for more time than a sandbox may have at all is refused. One that fits, but would take this sandbox beyond
//! its longest life counted from its start or last resume, gets what is left of it: the end time in the sandbox's details says so.

use std::time::Duration;

use axum::extract::State;
use catalog::Team;
use http::StatusCode;
use jiff::Timestamp;
use model::{FleetError, SandboxId, SandboxRecord, SandboxState};
use serde::Deserialize;

use super::request::timeout;
use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;

/// The longest extension by `refreshes`, by E2B's specification.
const MAX_REFRESH: Duration = Duration::from_secs(3600);

#[derive(Deserialize)]
pub(crate) struct SetTimeout {
    timeout: i64,
}

/// Moves the end time, to earlier or later; zero is the end now.
pub(crate) async fn set_timeout(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<SetTimeout>,
) -> Result<StatusCode, ApiError> {
    let wanted = timeout("timeout", body.timeout, state.max_life(&team))?;
    move_end_of(state, team, id, wanted, false).await?;
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
    move_end_of(state, team, id, wanted, true).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Moves the end of a sandbox that runs; one that is paused has none to move.
async fn move_end_of(
    state: ApiState,
    team: Team,
    id: SandboxId,
    wanted: Duration,
    only_extend: bool,
) -> Result<(), ApiError> {
    let record = state.fleet().get(&team.id, &id)?;
    if record.state == SandboxState::Paused {
        let message = format!("Sandbox \"{id}\" is paused and has no end time: connect to it to resume it");
        return Err(FleetError::Conflict(message).into());
    }
    detach(async move { Ok(move_end(&state, &team, &id, &record, wanted, only_extend).await?) }).await?;
    Ok(())
}

/// Moves the end of a sandbox that was seen running, within its longest life.
pub(super) async fn move_end(
    state: &ApiState,
    team: &Team,
    id: &SandboxId,
    seen: &SandboxRecord,
    wanted: Duration,
    only_extend: bool,
) -> Result<SandboxRecord, FleetError> {
    let age = Timestamp::now().duration_since(seen.running_since);
    let age = Duration::try_from(age).unwrap_or_default();
    let left = state.max_life(team).saturating_sub(age);
    state.fleet().set_timeout(&team.id, id, wanted.min(left), only_extend).await
}
