use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use http::StatusCode;

use crate::error::{ApiError, shown};
use crate::{ApiState, guard, health, sandboxes, snapshots, templates};

/// Every route of the REST surface.
pub fn router(state: ApiState) -> Router {
    let long = Router::new()
        .route("/sandboxes", post(sandboxes::create_v1))
        .route("/v2/sandboxes", post(sandboxes::create_v2))
        .route("/sandboxes/{id}/connect", post(sandboxes::connect_v1))
        .route("/v2/sandboxes/{id}/connect", post(sandboxes::connect_v2))
        .route("/sandboxes/{id}/pause", post(sandboxes::pause))
        .route("/sandboxes/{id}/resume", post(sandboxes::resume))
        .route("/sandboxes/{id}/snapshots", post(snapshots::create))
        .route("/sandboxes/{id}/fork", post(sandboxes::fork))
        .route_layer(from_fn_with_state(state.clone(), guard::slow));
    let rest = Router::new()
        .route("/sandboxes", get(sandboxes::list_v1))
        .route("/v2/sandboxes", get(sandboxes::list_v2))
        .route("/sandboxes/metrics", get(sandboxes::metrics_of_many))
        .route("/sandboxes/{id}", get(sandboxes::show).delete(sandboxes::kill))
        .route("/sandboxes/{id}/timeout", post(sandboxes::set_timeout))
        .route("/sandboxes/{id}/refreshes", post(sandboxes::refresh))
        .route("/sandboxes/{id}/metrics", get(sandboxes::metrics))
        .route("/sandboxes/{id}/logs", get(sandboxes::logs_v1))
        .route("/v2/sandboxes/{id}/logs", get(sandboxes::logs_v2))
        .route("/snapshots", get(snapshots::list))
        .route("/templates", get(templates::list))
        .route("/templates/{id}", delete(templates::delete))
        .route("/templates/aliases/{alias}", get(templates::by_alias))
        .route_layer(from_fn_with_state(state.clone(), guard::quick));
    // Outside the guard: a server with too much to do is still alive.
    let open = Router::new().route("/health", get(health::health));
    long.merge(rest)
        .merge(open)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .with_state(state)
}

async fn no_such_route(request: Request) -> ApiError {
    let message = format!("no such route: {} {}", request.method(), shown(request.uri().path()));
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn no_such_method(request: Request) -> ApiError {
    let message = format!("{} is not a method of {}", request.method(), shown(request.uri().path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
