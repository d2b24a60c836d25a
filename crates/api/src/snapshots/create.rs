//! `POST /sandboxes/{id}/snapshots`.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use catalog::{Build, NewSnapshot, Snapshot, Team, TemplateName};
use http::StatusCode;
use model::SandboxId;
use serde::Deserialize;

use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::detach::detach;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::wire::SnapshotInfo;

#[derive(Deserialize)]
pub(crate) struct CreateSnapshot {
    name: Option<String>,
    memory: Option<bool>,
}

/// Keeps what a running sandbox is now, for others to start from; it runs on. When the answer arrives, nothing of the
/// snapshot can be lost any more.
pub(crate) async fn create(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<CreateSnapshot>,
) -> Result<Response, ApiError> {
    let memory = body.memory != Some(false);
    let name = body.name.as_deref().map(TemplateName::parse).transpose()?;
    let snapshot = detach(async move { take(&state, &team, id, name, memory).await }).await?;
    Ok((StatusCode::CREATED, Json(SnapshotInfo::from(&snapshot))).into_response())
}

async fn take(
    state: &ApiState,
    team: &Team,
    id: SandboxId,
    name: Option<TemplateName>,
    memory: bool,
) -> Result<Snapshot, ApiError> {
    state.fleet().get(&team.id, &id)?;
    // It is asked again when the name is taken; a snapshot costs much more than the question.
    if let Some(name) = &name {
        state.catalog().check_snapshot_name(&team.id, name).await?;
    }
    let made = state.fleet().snapshot(&team.id, &id, memory).await?;
    let build = Build { id: made.build, shape: made.shape, envd_version: made.envd_version };
    let snapshot = NewSnapshot { team: team.id.clone(), name, source: id, build };
    match state.catalog().put_snapshot(&snapshot).await {
        Ok((written, replaced)) => {
            for build in &replaced {
                state.fleet().forget(build).await;
            }
            Ok(written)
        }
        Err(error) => {
            // No name leads to it.
            state.fleet().forget(&snapshot.build.id).await;
            Err(error.into())
        }
    }
}
