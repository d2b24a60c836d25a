//! What surrounds every handler: a bound on requests under way, a deadline, and a net for panics.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::StatusCode;
use tokio::time::timeout;

use crate::error::ApiError;
use crate::{ApiState, unread};

/// For creating, pausing, resuming, snapshotting and forking sandboxes.
pub(crate) async fn slow(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let deadline = state.config().create_deadline;
    guard(&state, request, next, deadline).await
}

/// For everything else.
pub(crate) async fn quick(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let deadline = state.config().request_deadline;
    guard(&state, request, next, deadline).await
}

async fn guard(state: &ApiState, request: Request, next: Next, deadline: Duration) -> Response {
    let Ok(_permit) = state.requests().try_acquire() else {
        return ApiError::busy("too many requests are under way: try again in a second").into_response();
    };
    let (request, reading) = unread::watch(request);
    let response = match timeout(deadline, AssertUnwindSafe(next.run(request)).catch_unwind()).await {
        Ok(Ok(response)) => response,
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            ApiError::internal(&format!("a handler panicked: {}", text.unwrap_or_default())).into_response()
        }
        Err(_) => {
            let message = format!("the request took longer than {} s and was given up", deadline.as_secs());
            ApiError::new(StatusCode::GATEWAY_TIMEOUT, message).into_response()
        }
    };
    reading.finish(response)
}
