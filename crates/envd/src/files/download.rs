//! `GET /files` and `HEAD /files`.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::access::Access;
use super::condition::{Verdict, judge, needs_plain};
use super::contents::{PiecesBody, Reading, Segment};
use super::encoding::{Encoding, negotiate};
use super::open::{Extent, Opened, open};
use super::range::{Parts, parts};
use super::sample::gets_smaller;
use super::signature::Operation;
use super::{content_type, date, disposition};
use crate::error::HttpError;
use crate::filesystem::blocking;
use crate::state::Envd;

/// Sends a file.
pub(super) async fn download(State(envd): State<Arc<Envd>>, request: Request) -> Response {
    let (request, _body) = request.into_parts();
    match answer(&envd, &request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(envd: &Envd, request: &http::request::Parts) -> Result<Response, HttpError> {
    let access = Access::check(envd, request, Operation::Read).await?;
    let path: Arc<Path> = access.resolve(access.path.as_deref().unwrap_or_default())?.into();
    let opened = {
        let path = Arc::clone(&path);
        blocking(move || open(&path)).await?
    };
    let wanted = |plain| {
        let accept = request.headers.get_all(header::ACCEPT_ENCODING);
        negotiate(accept.iter().filter_map(|value| value.to_str().ok()), plain)
    };
    let mut encoding = wanted(needs_plain(&request.headers)).map_err(|_| {
        HttpError::new(StatusCode::NOT_ACCEPTABLE, "no acceptable encoding: there are identity and gzip")
    })?;
    let opened = if encoding == Encoding::Gzip && wanted(true).is_ok() {
        let (opened, smaller) = blocking(move || {
            let smaller = gets_smaller(&opened);
            (opened, smaller)
        })
        .await;
        if !smaller {
            encoding = Encoding::Identity;
        }
        opened
    } else {
        opened
    };
    let head = request.method == Method::HEAD;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut response = contents(&path, opened, encoding, &request.headers, head);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    insert(headers, header::CONTENT_DISPOSITION, disposition::inline(&name));
    Ok(response)
}

fn contents(path: &Path, opened: Opened, encoding: Encoding, request: &HeaderMap, head: bool) -> Response {
    let Opened { file, modified, extent } = opened;
    let kind = match &extent {
        Extent::All(first) | Extent::Endless(first) => content_type::content_type(path, first),
        Extent::Sized { head, .. } => content_type::content_type(path, head),
    };
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // An empty file is sent as it is: clients tell it from a failed download by its length.
    let is_empty = matches!(&extent, Extent::All(all) if all.is_empty());
    if encoding == Encoding::Gzip && !is_empty {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        let body = match extent {
            _ if head => Body::empty(),
            Extent::All(all) => gzip(file, [Segment::Memory(all.into())]),
            Extent::Sized { size, .. } => gzip(file, [Segment::File { start: None, length: Some(size) }]),
            Extent::Endless(first) => gzip(file, endless(first.into())),
        };
        return (headers, body).into_response();
    }
    if let Some(date) = date::format(modified) {
        insert(&mut headers, header::LAST_MODIFIED, date);
    }
    let ranges = match judge(request, modified) {
        Verdict::NotModified => {
            headers.remove(header::CONTENT_TYPE);
            return (StatusCode::NOT_MODIFIED, headers, Body::empty()).into_response();
        }
        Verdict::Failed => {
            return HttpError::new(StatusCode::PRECONDITION_FAILED, "the file does not meet the condition")
                .into_response();
        }
        Verdict::Serve { ranges } => ranges,
    };
    let size = match &extent {
        Extent::All(all) => all.len() as u64,
        Extent::Sized { size, .. } => *size,
        Extent::Endless(first) => {
            // Neither length nor parts: nobody knows where it ends.
            let first = Bytes::copy_from_slice(first);
            let body = if head { Body::empty() } else { plain(file, endless(first)) };
            return (headers, body).into_response();
        }
    };
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let wanted = request.get(header::RANGE).filter(|_| ranges).and_then(|value| value.to_str().ok());
    let (status, segments) = match wanted.map_or(Parts::Whole, |wanted| parts(wanted, size)) {
        Parts::Whole => (StatusCode::OK, vec![segment(&extent, 0..size)]),
        Parts::Unsatisfiable => return unsatisfiable(size),
        Parts::Some(ranges) if ranges.len() == 1 => {
            insert(&mut headers, header::CONTENT_RANGE, content_range(&ranges[0], size));
            (StatusCode::PARTIAL_CONTENT, vec![segment(&extent, ranges[0].clone())])
        }
        Parts::Some(ranges) => {
            let boundary = boundary();
            let segments = multipart(&extent, &ranges, size, kind, &boundary);
            insert(&mut headers, header::CONTENT_TYPE, format!("multipart/byteranges; boundary={boundary}"));
            (StatusCode::PARTIAL_CONTENT, segments)
        }
    };
    let length = segments.iter().map(length).sum::<u64>();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let body = if head || length == 0 { Body::empty() } else { plain(file, segments) };
    (status, headers, body).into_response()
}

/// All of a file of unknown size.
fn endless(first: Bytes) -> [Segment; 2] {
    [Segment::Memory(first), Segment::File { start: None, length: None }]
}

/// Some bytes of a file of known size.
fn segment(extent: &Extent, range: Range<u64>) -> Segment {
    match extent {
        Extent::All(all) | Extent::Endless(all) => {
            let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(all.len());
            Segment::Memory(Bytes::copy_from_slice(&all[clamp(range.start)..clamp(range.end)]))
        }
        Extent::Sized { .. } => {
            Segment::File { start: Some(range.start), length: Some(range.end - range.start) }
        }
    }
}

fn length(segment: &Segment) -> u64 {
    match segment {
        Segment::Memory(bytes) => bytes.len() as u64,
        Segment::File { length, .. } => length.unwrap_or_default(),
    }
}

/// Several parts of a file in one answer (RFC 9110, section 14.6).
fn multipart(extent: &Extent, ranges: &[Range<u64>], size: u64, kind: &str, boundary: &str) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(2 * ranges.len() + 1);
    for (index, range) in ranges.iter().enumerate() {
        let separator = if index == 0 { "" } else { "\r\n" };
        let range_header = content_range(range, size);
        segments.push(Segment::Memory(Bytes::from(format!(
            "{separator}--{boundary}\r\nContent-Range: {range_header}\r\nContent-Type: {kind}\r\n\r\n"
        ))));
        segments.push(segment(extent, range.clone()));
    }
    segments.push(Segment::Memory(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
    segments
}

/// Text that the file does not hold but by the most improbable accident.
fn boundary() -> String {
    let mut bytes = [0_u8; 16];
    // Without randomness a fixed boundary does: parts have lengths that clients can go by.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    format!("part-{:032x}", u128::from_ne_bytes(bytes))
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

fn unsatisfiable(size: u64) -> Response {
    let error = HttpError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        format!("invalid range: the file has {size} bytes"),
    );
    let mut response = error.into_response();
    insert(response.headers_mut(), header::CONTENT_RANGE, format!("bytes */{size}"));
    response
}

fn plain(file: std::fs::File, segments: impl IntoIterator<Item = Segment>) -> Body {
    Body::new(PiecesBody::plain(Reading::new(file, segments)))
}

fn gzip(file: std::fs::File, segments: impl IntoIterator<Item = Segment>) -> Body {
    Body::new(PiecesBody::compressed(Reading::new(file, segments)))
}

/// Adds a header whose value is made of ASCII.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}
