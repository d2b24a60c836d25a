//! `GET /snapshots`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use catalog::{SnapshotFilter, TemplateName};
use http::{HeaderMap, HeaderValue};

use super::cursor;
use crate::ApiState;
use crate::auth::Caller;
use crate::cursor_text::NEXT_TOKEN;
use crate::error::ApiError;
use crate::params::Params;
use crate::path::short_id;
use crate::wire::SnapshotInfo;

/// Snapshots on one page, at most and by default.
const PAGE: u32 = 100;

/// The team's snapshots that fit a filter, newest first, page by page.
pub(crate) async fn list(
    Caller(team): Caller,
    State(state): State<ApiState>,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.number("limit", 1..=PAGE)?.unwrap_or(PAGE);
    let after = params.get("nextToken").map(cursor::decode).transpose()?;
    let name = params.get("name").map(TemplateName::parse).transpose()?;
    let source = match params.get("sandboxID").map(short_id) {
        // What cannot be an id is the id of no sandbox.
        Some(None) => return Ok(page(HeaderMap::new(), &[])),
        asked => asked.flatten(),
    };
    let filter = SnapshotFilter { source, name };
    let mut found = state.catalog().list_snapshots(&team.id, &filter, after.as_ref(), limit + 1).await?;
    let more = found.len() > limit as usize;
    found.truncate(limit as usize);

    let mut headers = HeaderMap::new();
    if let Some(last) = found.last().filter(|_| more) {
        let token = cursor::encode(&last.position());
        let token = HeaderValue::try_from(token).map_err(|error| ApiError::internal(&error))?;
        headers.insert(NEXT_TOKEN, token);
    }
    let infos: Vec<_> = found.iter().map(SnapshotInfo::from).collect();
    Ok(page(headers, &infos))
}

fn page(headers: HeaderMap, infos: &[SnapshotInfo]) -> Response {
    (headers, Json(infos)).into_response()
}
