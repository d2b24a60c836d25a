//! The service `process.Process`.

use std::sync::Arc;

use axum::Router;

use crate::state::Envd;

/// The routes.
pub(crate) fn router(_state: Arc<Envd>) -> Router {
    Router::new()
}
