//! `POST /freeze`, `POST /unfreeze`: the processes of the sandbox's user stand still while the host takes a snapshot. For
//! the host only.
//!
//! | request | answer |
//! |---|---|
//! | freeze with `maxWaitMs` | 200: what was seen of it when all stood still, or the time was over |
//! | freeze without | 204: it was asked for |
//! | freeze while another one is waiting | 503, after a while |
//! | unfreeze | 204, or 500 when one of the groups could not be thawed; the others were |
//!
//! What stands still are the groups `user` and `ptys`; the daemon itself never does. A freeze that waits holds up no
//! thaw: `/unfreeze`, an accepted `/init` and the watchdog end it. All of it is done to the end whatever becomes of the
//! request, and none of it touches a disk.

mod workload;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::{StatusCode, header};
use model::LogLevel;
use serde::Deserialize;

use crate::auth::require_host;
use crate::error::HttpError;
use crate::server::Peer;
use crate::state::Envd;

pub(crate) use self::workload::Workload;
use self::workload::{Busy, LONGEST};

/// The longest that a freeze waits, whatever is asked for. Nobody waits for an answer that long.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The query of a freeze. `maxCgroups` limits a kind of freezing that this daemon does not have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parameters {
    mode: Option<Mode>,
    max_wait_ms: Option<i64>,
    #[serde(rename = "maxCgroups")]
    _max_cgroups: Option<i64>,
}

/// What to freeze. There is only the first here, and the answer says so: who asks expects that of older daemons.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Legacy,
    Hierarchy,
}

/// The routes.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/freeze", post(freeze)).route("/unfreeze", post(unfreeze)).with_state(state)
}

async fn freeze(
    State(envd): State<Arc<Envd>>,
    Extension(Peer(peer)): Extension<Peer>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, HttpError> {
    require_host(&envd, peer)?;
    let Query(parameters) =
        parameters.map_err(|error| HttpError::bad_request(format!("cannot read the query: {error}")))?;
    if matches!(parameters.mode, Some(Mode::Hierarchy)) {
        let text = "only the groups user and ptys are frozen: this daemon knows the mode legacy".to_owned();
        envd.log().say(LogLevel::Debug, text);
    }
    let wait = parameters.max_wait_ms.and_then(|wait| u64::try_from(wait).ok()).filter(|wait| *wait > 0);
    let wait = wait.map(|wait| Duration::from_millis(wait).min(MAX_WAIT));
    let log = Arc::downgrade(&envd);
    let forgotten = move || {
        if let Some(envd) = log.upgrade() {
            let text = format!("processes were frozen for {LONGEST:?} and are thawed: the host did not");
            envd.log().say(LogLevel::Warn, text);
        }
    };
    let task = tokio::spawn(async move { Arc::clone(envd.workload()).freeze(wait, forgotten).await });
    match task.await {
        Ok(Ok(report)) if wait.is_some() => {
            Ok(([(header::CACHE_CONTROL, "no-store")], Json(report)).into_response())
        }
        Ok(Ok(_)) => Ok(StatusCode::NO_CONTENT.into_response()),
        Ok(Err(busy @ Busy)) => Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, busy.to_string())),
        Err(error) => Err(internal(format!("freezing: {error}"))),
    }
}

async fn unfreeze(
    State(envd): State<Arc<Envd>>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<StatusCode, HttpError> {
    require_host(&envd, peer)?;
    // There is nothing to wait for in it, so nobody can end it half way.
    envd.workload().thaw().map(|()| StatusCode::NO_CONTENT).map_err(|error| internal(error.to_string()))
}

fn internal(message: String) -> HttpError {
    HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
}
