//! `GET /health`: an answer means the daemon is alive.

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use http::{StatusCode, header};

/// The route.
pub(crate) fn router() -> Router {
    Router::new().route("/health", get(health))
}

async fn health() -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(header::CACHE_CONTROL, "no-store")])
}
