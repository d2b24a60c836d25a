//! `POST /files/compose`: files become one file, in order, and are gone then.
//!
//! The sources are not signed for, so the access token is needed, as everywhere but at `/files` itself.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest as _, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{Extensions, StatusCode};
use serde::Deserialize;

use super::concat::{Composition, concatenate};
use super::written::Written;
use crate::error::HttpError;
use crate::filesystem::{Owner, blocking};
use crate::state::Envd;
use crate::user::{User, request_user, resolve_path};

/// Most files in one request: each is looked at before anything is written.
const MAX_SOURCES: usize = 10_000;

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Body {
    source_paths: Vec<String>,
    destination: String,
    username: Option<String>,
}

/// Composes. It goes on when the client hangs up: what is begun is finished.
pub(super) async fn compose(State(envd): State<Arc<Envd>>, request: Request) -> Response {
    let extensions = request.extensions().clone();
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(rejection) => return rejection.into_response(),
    };
    let task = tokio::spawn(async move { answer(&envd, &extensions, &body).await });
    match task.await {
        Ok(Ok(written)) => Json(written).into_response(),
        Ok(Err(error)) => error.into_response(),
        Err(error) => {
            let text = format!("composing failed: {error}");
            HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

async fn answer(envd: &Envd, extensions: &Extensions, body: &[u8]) -> Result<Written, HttpError> {
    let body = Body::parse(body)?;
    let user = match body.username.as_deref() {
        Some(name) if !name.is_empty() => User::by_name(name).await.map(Arc::new),
        _ => request_user(envd, extensions).await,
    };
    let user = user.map_err(|unknown| HttpError::unauthorized(unknown.to_string()))?;
    let workdir = envd.default_workdir();
    let resolve = |path: &String| -> Result<PathBuf, HttpError> {
        resolve_path(path, &user, workdir.as_deref())
            .map_err(|error| HttpError::bad_request(format!("'{path}': {error}")))
    };
    let composition = Composition {
        sources: body.source_paths.iter().map(resolve).collect::<Result<_, _>>()?,
        destination: resolve(&body.destination)?,
        owner: Owner::from(&*user),
    };
    blocking(move || {
        concatenate(&composition)?;
        Ok(Written::new(&composition.destination, BTreeMap::new()))
    })
    .await
}

impl Body {
    fn parse(body: &[u8]) -> Result<Self, HttpError> {
        // Lists would be read as the fields in their order.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err(HttpError::bad_request("cannot read the request: it is not a JSON object"));
        }
        let body: Self = serde_json::from_slice(body)
            .map_err(|error| HttpError::bad_request(format!("cannot read the request: {error}")))?;
        if body.source_paths.is_empty() {
            return Err(HttpError::bad_request("source_paths must not be empty"));
        }
        if body.source_paths.len() > MAX_SOURCES {
            let text = format!("more than {MAX_SOURCES} source_paths: compose them in several steps");
            return Err(HttpError::bad_request(text));
        }
        if body.source_paths.iter().any(String::is_empty) {
            return Err(HttpError::bad_request("an empty path in source_paths is no file"));
        }
        if body.destination.is_empty() {
            return Err(HttpError::bad_request("destination is required"));
        }
        Ok(body)
    }
}
