//! `POST /files`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use http::request::Parts;
use http::{StatusCode, header};

use super::access::Access;
use super::form::Form;
use super::memory::Transfer;
use super::metadata;
use super::signature::Operation;
use super::source::{Source, source};
use super::store::store;
use super::target::Plan;
use super::written::Written;
use crate::error::HttpError;
use crate::state::Envd;

/// Most bytes of a body that are read after a failure, only so that the client gets to read why, and how long that may
/// take. Clients that send more have to live with a connection that ends.
const MAX_DRAINED: u64 = 64 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Most files in one form: each has a line in the answer.
const MAX_FILES: usize = 10_000;

/// Receives files. It goes on when the client hangs up: what has come is written, owned and closed like all else.
pub(super) async fn upload(State(envd): State<Arc<Envd>>, request: Request) -> Response {
    match tokio::spawn(answer(envd, request)).await {
        Ok(response) => response,
        Err(error) => {
            HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the upload failed: {error}"))
                .into_response()
        }
    }
}

async fn answer(envd: Arc<Envd>, request: Request) -> Response {
    let (request, body) = request.into_parts();
    let mut upload = match Upload::prepare(&envd, &request, body).await {
        Ok(upload) => upload,
        Err(refused) => return refused.into_response(),
    };
    let _transfer = Transfer::begin();
    match upload.receive().await {
        Ok(written) => Json(written).into_response(),
        Err(error) => {
            upload.drain().await;
            error.into_response()
        }
    }
}

/// How the files are sent.
enum Contents {
    /// One file, which is the body.
    Raw(Source),
    /// A form.
    Form(Form),
}

struct Upload {
    access: Access,
    metadata: BTreeMap<String, String>,
    contents: Contents,
    /// Bytes of the body, when known.
    length: Option<u64>,
    /// Whether that is also how many bytes will be written.
    as_is: bool,
    /// Whether the client waits for a sign before it sends the body.
    waits: bool,
}

impl Upload {
    /// Looks at everything but the body.
    async fn prepare(envd: &Envd, request: &Parts, body: Body) -> Result<Self, HttpError> {
        let access = Access::check(envd, request, Operation::Write).await?;
        let headers = &request.headers;
        let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let metadata = metadata::from_headers(headers).map_err(HttpError::bad_request)?;
        let as_is = !headers.contains_key(header::CONTENT_ENCODING);
        let length = text(header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
        let waits = headers.contains_key(header::EXPECT);
        let source = source(headers, body).map_err(HttpError::bad_request)?;
        let contents = if essence == "application/octet-stream" {
            Contents::Raw(source)
        } else if essence.starts_with("multipart/") {
            Contents::Form(Form::new(content_type, source).map_err(HttpError::bad_request)?)
        } else {
            return Err(HttpError::bad_request(format!(
                "unsupported content type '{content_type}': there are application/octet-stream and multipart/form-data"
            )));
        };
        let as_is = as_is && matches!(contents, Contents::Raw(_));
        Ok(Self { access, metadata, contents, length, as_is, waits })
    }

    async fn receive(&mut self) -> Result<Vec<Written>, HttpError> {
        let given = self.access.path.as_deref().filter(|path| !path.is_empty());
        let mut plan = Plan {
            path: given.map(|path| self.access.resolve(path)).transpose()?.unwrap_or_default(),
            owner: self.access.owner(),
            metadata: self.metadata.clone(),
            announced: self.length.filter(|_| self.as_is),
        };
        let form = match &mut self.contents {
            Contents::Raw(_) if given.is_none() => {
                return Err(HttpError::bad_request("missing path: an upload of raw bytes needs one"));
            }
            Contents::Raw(source) => {
                store(plan.clone(), source).await?;
                return Ok(vec![Written::new(&plan.path, plan.metadata)]);
            }
            Contents::Form(form) => form,
        };
        let mut seen = HashSet::new();
        let mut written = Vec::new();
        while let Some(mut file) =
            form.next_file().await.map_err(|error| HttpError::bad_request(error.to_string()))?
        {
            if given.is_none() {
                let filename =
                    file.filename.take().filter(|filename| !filename.is_empty()).ok_or_else(|| {
                        HttpError::bad_request(
                            "missing path: neither the query nor the part of the form has one",
                        )
                    })?;
                plan.path = self.access.resolve(&filename)?;
            }
            if !seen.insert(plan.path.clone()) {
                return Err(HttpError::bad_request(format!(
                    "you cannot upload multiple files to the same path '{}' in one upload request, only the first \
                     specified file was uploaded",
                    plan.path.display()
                )));
            }
            if seen.len() > MAX_FILES {
                return Err(HttpError::bad_request(format!("more than {MAX_FILES} files in one form")));
            }
            store(plan.clone(), &mut file.contents).await?;
            written.push(Written::new(&plan.path, plan.metadata.clone()));
        }
        Ok(written)
    }

    /// Reads what is left of the body, within reason. A client that is still sending when the connection ends may never
    /// see the answer.
    async fn drain(&mut self) {
        if self.waits || self.length.is_some_and(|length| length > MAX_DRAINED) {
            return;
        }
        let drain = async {
            let mut drained = 0;
            match &mut self.contents {
                Contents::Raw(source) => {
                    while drained < MAX_DRAINED
                        && let Some(Ok(bytes)) = source.next().await
                    {
                        drained += bytes.len() as u64;
                    }
                }
                Contents::Form(form) => {
                    while let Ok(Some(mut file)) = form.next_file().await {
                        while drained < MAX_DRAINED
                            && let Some(Ok(bytes)) = file.contents.next().await
                        {
                            drained += bytes.len() as u64;
                        }
                        if drained >= MAX_DRAINED {
                            break;
                        }
                    }
                }
            }
        };
        // Out of patience is as good as done.
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain).await;
    }
}
