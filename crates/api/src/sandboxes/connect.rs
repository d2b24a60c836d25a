//! `POST /sandboxes/{id}/connect`, `POST /v2/sandboxes/{id}/connect`: a sandbox is made sure to run, and its client told
//! how to reach it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use catalog::Team;
use http::{HeaderName, HeaderValue, StatusCode};
use model::{Connected, FleetError, SandboxId, SandboxRecord, SandboxState, WayBack};
use serde::Deserialize;

use super::lifetime::move_end;
use super::request::timeout;
use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::wire::Sandbox;

/// Says that a new kernel was booted from the sandbox's disk in place of going on with its memory, and why.
const REBOOTED_HEADER: HeaderName = HeaderName::from_static("x-coldframe-rebooted");
/// The longest reason, in characters.
const MAX_REASON: usize = 300;

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
        detach(async move { connect(&state, &team, &id, wanted, way_back(memory)).await }).await?;
    let (record, domain) = (&connected.record, domain.as_deref());
    if connected.resumed {
        return Ok(started(record, domain));
    }
    Ok((StatusCode::OK, Json(Sandbox::new(record, domain))).into_response())
}

async fn connect(
    state: &ApiState,
    team: &Team,
    id: &SandboxId,
    wanted: Duration,
    way: WayBack,
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
    check_life(wanted)?;
    let _place = state.pending().resume(team, id, state.fleet().as_ref())?;
    Ok(state.fleet().connect(&team.id, id, wanted, way).await?)
}

/// What a client that says `memory` wants.
pub(super) fn way_back(memory: Option<bool>) -> WayBack {
    if memory == Some(false) { WayBack::Reboot } else { WayBack::Best }
}

/// The answer about a sandbox that was started for it. A client that has to know whether its processes are still there
/// finds out by a header, as the body is E2B's.
pub(super) fn started(record: &SandboxRecord, domain: Option<&str>) -> Response {
    let mut response = (StatusCode::CREATED, Json(Sandbox::new(record, domain))).into_response();
    if let Some(why) = &record.rebooted {
        // Of what is left every value can be made.
        if let Ok(value) = HeaderValue::from_str(&reason(why)) {
            response.headers_mut().insert(REBOOTED_HEADER, value);
        }
    }
    response
}

/// A resumed sandbox without time to live would end, perhaps for good, before its client could do anything.
pub(super) fn check_life(timeout: Duration) -> Result<(), ApiError> {
    if timeout.is_zero() {
        return Err(ApiError::bad_request("timeout must be at least 1 second to resume a paused sandbox"));
    }
    Ok(())
}

/// A reason as a header can hold it.
fn reason(why: &str) -> String {
    why.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_printable_and_bounded() {
        let text = reason(&format!("a\r\nb: \u{fc}{}", "x".repeat(5000)));
        assert!(text.starts_with("ab: x") && text.len() == MAX_REASON, "{text}");
    }
}
