//! `POST /collapse`: the daemon's own memory is put together, so that a resume has to bring back fewer places of it. For
//! the host only.
//!
//! Nothing else depends on it: where the kernel cannot do that, the numbers say that nothing was done.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde::Serialize;
use sys::collapse::Collapse;

use crate::auth::require_host;
use crate::error::HttpError;
use crate::filesystem::blocking;
use crate::server::Peer;
use crate::state::Envd;

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    regions: u64,
    chunks: u64,
    collapsed: u64,
    already_huge: u64,
    skipped: u64,
    elapsed_ms: u64,
}

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/collapse", post(collapse)).with_state(state)
}

async fn collapse(
    State(envd): State<Arc<Envd>>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<Response, HttpError> {
    require_host(&envd, peer)?;
    let begin = Instant::now();
    let done = blocking(sys::collapse::own_memory).await.map_err(|error| {
        let text = format!("cannot see the daemon's own memory in /proc/self/smaps: {error}");
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(Report::new(done, begin))).into_response())
}

impl Report {
    fn new(done: Collapse, begin: Instant) -> Self {
        let Collapse { regions, chunks, collapsed, already_huge, skipped } = done;
        let elapsed_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self { regions, chunks, collapsed, already_huge, skipped, elapsed_ms }
    }
}
