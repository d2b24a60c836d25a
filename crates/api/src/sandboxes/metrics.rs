//! `GET /sandboxes/{id}/metrics`, `GET /sandboxes/metrics`.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use model::{FleetError, MetricRange, SandboxId};
use serde::Serialize;

use crate::ApiState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::params::Params;
use crate::path::{SandboxPath, short_id};
use crate::wire::SandboxMetric;

/// Sandboxes in one question.
const MAX_IDS: usize = 100;
/// How old a sandbox's newest sample may be to count as current.
const CURRENT: SignedDuration = SignedDuration::from_secs(60);

/// What a sandbox used over a time; empty for a paused one of which no samples are kept.
pub(crate) async fn metrics(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    params: Params,
) -> Result<Json<Vec<SandboxMetric>>, ApiError> {
    let range = MetricRange { start: params.unix_seconds("start")?, end: params.unix_seconds("end")? };
    if let (Some(start), Some(end)) = (range.start, range.end)
        && start > end
    {
        return Err(ApiError::bad_request("start must not be after end"));
    }
    let samples = match state.fleet().metrics(&team.id, &id, range).await {
        // Paused, and none are kept.
        Err(FleetError::Conflict(_)) => Vec::new(),
        other => other?,
    };
    Ok(Json(samples.into_iter().map(SandboxMetric::from).collect()))
}

#[derive(Serialize)]
pub(crate) struct MetricsOfMany {
    sandboxes: BTreeMap<String, SandboxMetric>,
}

/// The newest sample of each of several sandboxes; those that are not there, or have none yet or while they are paused,
/// are left out.
pub(crate) async fn metrics_of_many(
    Caller(team): Caller,
    State(state): State<ApiState>,
    params: Params,
) -> Result<Json<MetricsOfMany>, ApiError> {
    let ids: BTreeSet<SandboxId> = params.list("sandbox_ids").filter_map(short_id).collect();
    if ids.len() > MAX_IDS {
        let message = format!("sandbox_ids may name at most {MAX_IDS} sandboxes, not {}", ids.len());
        return Err(ApiError::bad_request(message));
    }
    if params.get("sandbox_ids").is_none() {
        return Err(ApiError::bad_request("sandbox_ids is missing: name the sandboxes, separated by commas"));
    }
    let range = MetricRange { start: Some(Timestamp::now() - CURRENT), end: None };
    let questions = ids.into_iter().map(async |id| {
        let samples = state.fleet().metrics(&team.id, &id, range).await;
        (id, samples)
    });
    let mut sandboxes = BTreeMap::new();
    for (id, samples) in join_all(questions).await {
        match samples {
            Ok(samples) => {
                if let Some(&newest) = samples.last() {
                    sandboxes.insert(id.to_string(), newest.into());
                }
            }
            Err(FleetError::NotFound(_) | FleetError::Conflict(_)) => {}
            // One sandbox in trouble must not hide the others.
            Err(error) => tracing::warn!(sandbox = %id, %error, "cannot read metrics"),
        }
    }
    Ok(Json(MetricsOfMany { sandboxes }))
}
