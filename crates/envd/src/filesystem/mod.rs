//! The service `filesystem.Filesystem`.

use std::sync::Arc;

use axum::Router;

use crate::state::Envd;

/// The routes of the service.
pub(crate) fn router(_state: Arc<Envd>) -> Router {
    Router::new()
}
