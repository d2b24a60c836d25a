//! `GET /metrics` for Prometheus, for holders of a key.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use catalog::Catalog;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

struct Exporter {
    catalog: Arc<Catalog>,
    registry: Registry,
}

/// The route, with what it shows. The key comes as `X-API-Key` or as a bearer token, which Prometheus can send.
pub(crate) fn router(catalog: Arc<Catalog>, registry: Registry) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Arc::new(Exporter { catalog, registry }))
}

async fn metrics(State(exporter): State<Arc<Exporter>>, headers: HeaderMap) -> Response {
    let bearer =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let key = headers.get("x-api-key").and_then(|value| value.to_str().ok()).or(bearer).unwrap_or_default();
    match exporter.catalog.team_by_key(key).await {
        Ok(Some(_)) => {}
        Ok(None) => {
            return refuse(StatusCode::UNAUTHORIZED, "metrics need an API key as X-API-Key or bearer token");
        }
        Err(error) => {
            tracing::error!(%error, "checking a key failed");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the key could not be checked");
        }
    }
    let mut text = String::new();
    match encode(&mut text, &exporter.registry) {
        Ok(()) => {
            ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                .into_response()
        }
        Err(error) => {
            tracing::error!(%error, "writing metrics failed");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written")
        }
    }
}

fn refuse(status: StatusCode, message: &str) -> Response {
    let body = serde_json::json!({ "code": status.as_u16(), "message": message });
    (status, axum::Json(body)).into_response()
}
