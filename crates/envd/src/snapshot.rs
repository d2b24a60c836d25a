//! `POST /snapshot/prepare`: the host is about to freeze the machine. For the host only.
//!
//! What the daemon does of its own accord stops, and what memory it does not need goes back to the kernel, which need
//! not save it. Requests and processes go on: a snapshot holds them as they are. The next `/init` or `/health` ends
//! this state, whether there was a snapshot or not.
//!
//! | | at the preparation | after a resume (`/init` with another `lifecycleID`) |
//! |---|---|---|
//! | log lines | the exchange under way is finished, the rest waits | sent, those of an exchange that was cut again |
//! | connections from outside | closed when nothing happened on them for a second | closed; what answers gets a few seconds |
//! | processes, their output | go on | go on; what nobody reads any more is thrown away |
//! | polling watchers | kept: the kernel holds what happens | kept, with their ids and all that happened |
//! | watching streams | go on | end with their connections |
//! | timers | none runs more often than somebody asked for | monotonic: a pause is no time, and nothing is made up for |

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
    let rests = envd.moments().rests.clone();
    let quiet = tokio::spawn(async move { envd.shipping().quiesce().await });
    // Without it the snapshot holds an exchange with the host, which is no worse than that: it is tried again.
    let _ = quiet.await;
    rests.send_modify(|rests| *rests += 1);
    process::release_buffers();
    // Last, after everything that allocates.
    sys::heap::trim();
    response
}
