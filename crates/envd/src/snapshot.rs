//! `POST /snapshot/prepare`: the host is about to freeze the machine. For the host only.
//!
//! What the daemon does of its own accord stops, and what memory it does not need goes back to the kernel, which need
//! not save it. Requests and processes go on: a snapshot holds them as they are. The next `/init` or `/health` ends
//! this state, whether there was a snapshot or not.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use http::StatusCode;

use crate::process;
use crate::state::Envd;

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/snapshot/prepare", post(prepare)).with_state(state)
}

async fn prepare(State(envd): State<Arc<Envd>>) -> Response {
    let response = StatusCode::NO_CONTENT.into_response();
    // On a task of its own, as everything that must not stop half way when the host does not wait.
    let quiet = tokio::spawn(async move { envd.shipping().quiesce().await });
    // Without it the snapshot holds an exchange with the host, which is no worse than that: it is tried again.
    let _ = quiet.await;
    process::release_buffers();
    // Last, after everything that allocates.
    sys::heap::trim();
    response
}
