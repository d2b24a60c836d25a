//! All routes, and what every request passes on its way to them.

use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use http::StatusCode;

use crate::state::Envd;
use crate::{
    auth, collapse, cors, envs, files, filesystem, freeze, fsfreeze, health, init, metrics, process,
    snapshot, sync, user,
};

/// Everything this daemon answers.
pub(crate) fn all(envd: &Arc<Envd>) -> Router {
    let share = || Arc::clone(envd);
    Router::new()
        .merge(health::router(share()))
        .merge(envs::router(share()))
        .merge(init::router(share()))
        .merge(metrics::router(share()))
        .merge(snapshot::router(share()))
        .merge(sync::router(share()))
        .merge(collapse::router(share()))
        .merge(freeze::router(share()))
        .merge(fsfreeze::router(share()))
        .merge(files::router(share()))
        .merge(process::router(share()))
        .merge(filesystem::router(share()))
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found\n") })
        // The last layer is the first that a request meets.
        .layer(from_fn(user::authenticate))
        .layer(from_fn_with_state(share(), auth::require_token))
        .layer(from_fn(cors::allow_any_origin))
}
