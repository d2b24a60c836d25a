//! `GET /sandboxes/{id}/logs`, `GET /v2/sandboxes/{id}/logs`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use model::{FleetError, LogEntry, LogLevel, LogQuery, SandboxId, TeamId};
use serde::Serialize;

use crate::ApiState;
use crate::auth::Caller;
use crate::error::{ApiError, shown};
use crate::params::Params;
use crate::path::SandboxPath;
use crate::wire::{LogLine, RawLogLine};

/// Lines in one answer, at most and by default.
const MAX_LINES: usize = 1000;
/// The longest text to search for, in bytes.
const MAX_SEARCH: usize = 256;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LogsV1<'a> {
    logs: Vec<RawLogLine>,
    log_entries: Vec<LogLine<'a>>,
}

/// The lines from a time on, oldest first.
pub(crate) async fn logs_v1(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    params: Params,
) -> Result<Response, ApiError> {
    let query =
        LogQuery { start: params.unix_millis("start")?, limit: Some(limit(&params)?), ..LogQuery::default() };
    let entries = read(&state, &team.id, &id, query).await?;
    let body = LogsV1 {
        logs: entries.iter().map(RawLogLine::new).collect(),
        log_entries: entries.iter().map(LogLine::new).collect(),
    };
    Ok(Json(body).into_response())
}

#[derive(Serialize)]
struct LogsV2<'a> {
    logs: Vec<LogLine<'a>>,
}

/// The lines before or after a time, filtered.
pub(crate) async fn logs_v2(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    params: Params,
) -> Result<Response, ApiError> {
    let cursor = params.unix_millis("cursor")?;
    let backward = match params.get("direction") {
        None | Some("forward") => false,
        Some("backward") => true,
        Some(other) => {
            let other = shown(other);
            return Err(ApiError::bad_request(format!(
                "direction must be forward or backward, not '{other}'"
            )));
        }
    };
    let search = params.get("search").map(str::to_owned);
    if search.as_ref().is_some_and(|text| text.len() > MAX_SEARCH) {
        return Err(ApiError::bad_request(format!("search may have at most {MAX_SEARCH} bytes")));
    }
    let (start, end) = if backward { (None, cursor) } else { (cursor, None) };
    let query =
        LogQuery { start, end, limit: Some(limit(&params)?), level: level(&params)?, search, backward };
    let entries = read(&state, &team.id, &id, query).await?;
    Ok(Json(LogsV2 { logs: entries.iter().map(LogLine::new).collect() }).into_response())
}

/// The lines of a sandbox; none of a paused one of which none are kept.
async fn read(
    state: &ApiState,
    team: &TeamId,
    id: &SandboxId,
    query: LogQuery,
) -> Result<Vec<LogEntry>, ApiError> {
    match state.fleet().logs(team, id, query).await {
        Err(FleetError::Conflict(_)) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

fn limit(params: &Params) -> Result<usize, ApiError> {
    Ok(params.number("limit", 0..=MAX_LINES)?.unwrap_or(MAX_LINES))
}

fn level(params: &Params) -> Result<Option<LogLevel>, ApiError> {
    let Some(text) = params.get("level") else { return Ok(None) };
    let levels = [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];
    let level = levels.into_iter().find(|level| level.as_str() == text);
    level.map(Some).ok_or_else(|| {
        ApiError::bad_request(format!("level must be debug, info, warn or error, not '{}'", shown(text)))
    })
}
