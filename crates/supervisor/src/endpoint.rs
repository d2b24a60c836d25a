//! What the guest can reach of its supervisor: `http://169.254.0.22/v1/{ready,logs}`, inside the sandbox's namespace.
//!
//! Everything that arrives here was written by the guest and is not trusted: sizes, counts and times are bounded, and
//! the worst a guest can do is to fill its own log and to call itself ready.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use model::{LogEntry, LogSource};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::http1::{Body, read_body, serve, text};
use crate::lifecycle::Command;
use crate::log_store::LogStore;

/// envd keeps one connection; a hostile guest gets no more than this.
const MAX_CONNECTIONS: usize = 16;
/// A batch of log lines.
const MAX_BODY_BYTES: usize = 1 << 20;
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// "0.6.13" and the like.
const MAX_VERSION_CHARS: usize = 32;

#[derive(Deserialize)]
struct Ready {
    version: String,
}

/// Listens to the guest for ever.
pub(crate) async fn run(listener: TcpListener, commands: mpsc::Sender<Command>, logs: Rc<LogStore>) {
    let accept = async || {
        let (stream, _) = listener.accept().await?;
        // Fails for a guest that is gone again, which is no reason to let others wait.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    };
    serve(MAX_CONNECTIONS, accept, move |request| answer(request, commands.clone(), Rc::clone(&logs))).await;
}

async fn answer(
    request: Request<Incoming>,
    commands: mpsc::Sender<Command>,
    logs: Rc<LogStore>,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match read_body(body, MAX_BODY_BYTES, BODY_TIMEOUT).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match (head.method, head.uri.path()) {
        (Method::POST, "/v1/ready") => match serde_json::from_slice::<Ready>(&body) {
            Ok(Ready { version }) if plausible_version(&version) => {
                // The queue is drained by the lifecycle; when that is gone, so is the sandbox.
                let _ = commands.send(Command::Ready(version)).await;
                text(StatusCode::NO_CONTENT, "")
            }
            Ok(_) => text(StatusCode::BAD_REQUEST, "not a version"),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("reading the ready message: {error}")),
        },
        (Method::POST, "/v1/logs") => {
            take_lines(&body, &logs);
            text(StatusCode::NO_CONTENT, "")
        }
        (_, path) => text(StatusCode::NOT_FOUND, format!("no such route: {path}")),
    }
}

fn plausible_version(version: &str) -> bool {
    (1..=MAX_VERSION_CHARS).contains(&version.len())
        && version.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
}

/// Lines that are no log entries are dropped: nothing in the guest but envd is meant to write here.
fn take_lines(body: &Bytes, logs: &LogStore) {
    let entries = body
        .split(|&b| b == b'\n')
        .filter_map(|line| serde_json::from_slice::<LogEntry>(line).ok())
        .filter(|entry| matches!(entry.source, LogSource::Process | LogSource::Envd));
    for entry in entries {
        logs.append(&entry);
    }
}
