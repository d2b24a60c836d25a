use axum::Json;
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Health {
    status: &'static str,
}

/// `GET /health`: the server answers. Needs no key.
pub(crate) async fn health() -> Json<Health> {
    Json(Health { status: "ok" })
}
