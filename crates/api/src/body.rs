//! Reading JSON that somebody else wrote.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::ApiState;
use crate::error::{ApiError, shown};

/// A body that only carries a number or two, in bytes.
pub(crate) const SMALL_BODY: usize = 16 << 10;
/// A body that describes a new sandbox, in bytes.
pub(crate) const CREATE_BODY: usize = 1 << 20;
/// A body that is too large is still read up to here, so that the client gets to see the answer instead of a reset
/// connection.
const MAX_DRAIN: usize = 16 << 20;
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// A small JSON body; no body at all counts as `{}`.
pub(crate) struct SmallJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<ApiState> for SmallJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, ApiError> {
        read_json(request, SMALL_BODY, state.config().body_deadline).await.map(Self)
    }
}

/// Reads a JSON body of at most `limit` bytes that arrives within `deadline`.
pub(crate) async fn read_json<T: DeserializeOwned>(
    request: Request,
    limit: usize,
    deadline: Duration,
) -> Result<T, ApiError> {
    let (parts, body) = request.into_parts();
    check_content_type(&parts.headers)?;
    let bytes = timeout(deadline, read(&parts.headers, body, limit)).await.map_err(|_| {
        let message = format!("the request body did not arrive within {} s", deadline.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    })??;
    parse(if bytes.is_empty() { b"{}" } else { &bytes })
}

/// Absent is taken for JSON: nothing else is spoken here.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let mime = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if mime == "application/json" || (mime.starts_with("application/") && mime.ends_with("+json")) {
        return Ok(());
    }
    let message = format!("the body must be application/json, not '{}'", shown(text));
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
}

async fn read(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request body is larger than {limit} bytes"))
    };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok())
        .and_then(|length| usize::try_from(length).ok());
    if declared.is_some_and(|length| length > limit) {
        // A client that asks first has sent nothing yet.
        if !headers.contains_key(header::EXPECT) {
            drain(body).await;
        }
        return Err(too_large());
    }
    let mut bytes = BytesMut::with_capacity(declared.unwrap_or_default());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            ApiError::bad_request(format!("the request body ended early or is malformed: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            drain(body).await;
            return Err(too_large());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

async fn drain(mut body: Body) {
    let all = async {
        let mut left = MAX_DRAIN;
        while let Some(Ok(frame)) = body.frame().await {
            let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
            left = rest;
        }
    };
    // Giving up is fine: the client is then told by a closed connection.
    let _ = timeout(DRAIN_DEADLINE, all).await;
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.inner();
        ApiError::bad_request(if path == "." || path == "?" {
            format!("the request body is not what was expected: {}", shown_long(reason))
        } else {
            format!("the request body is not what was expected: {}: {}", shown(&path), shown_long(reason))
        })
    })?;
    json.end()
        .map_err(|error| ApiError::bad_request(format!("the request body goes on after its end: {error}")))?;
    Ok(value)
}

/// The parser's own words may quote what it read.
fn shown_long(reason: &serde_json::Error) -> String {
    const MAX_REASON: usize = 300;
    reason.to_string().chars().filter(|c| !c.is_control()).take(MAX_REASON).collect()
}
