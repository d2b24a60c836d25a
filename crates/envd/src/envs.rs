//! `GET /envs`: the variables that every process gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use crate::state::Envd;

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/envs", get(envs)).with_state(state)
}

async fn envs(State(envd): State<Arc<Envd>>) -> Json<BTreeMap<String, String>> {
    Json(envd.environment())
}
