//! `GET /health`: an answer means the daemon is alive.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{StatusCode, header};

use crate::state::Envd;

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/health", get(health)).with_state(state)
}

async fn health(State(envd): State<Arc<Envd>>) -> impl IntoResponse {
    // Whoever asks now did not freeze the machine, or has thawed it again.
    envd.shipping().reopen();
    (StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, "no-store")])
}
