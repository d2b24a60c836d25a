//! A small HTTP and Connect-JSON client: one connection, kept alive.

use std::net::SocketAddr;

use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// One connection to a server, with headers that every request carries.
pub(crate) struct Connection {
    sender: SendRequest<Body>,
    headers: Vec<(&'static str, String)>,
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

impl Connection {
    pub(crate) async fn open(
        address: SocketAddr,
        headers: Vec<(&'static str, String)>,
    ) -> Result<Self, String> {
        let stream =
            TcpStream::connect(address).await.map_err(|error| format!("connecting to {address}: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Self::over(stream, headers).await
    }

    /// The same over a connection that there is.
    pub(crate) async fn over(
        stream: TcpStream,
        headers: Vec<(&'static str, String)>,
    ) -> Result<Self, String> {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender, headers })
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Body,
    ) -> Result<Response<Incoming>, String> {
        self.sender.ready().await.map_err(|error| format!("{method} {path}: {error}"))?;
        let mut request = Request::builder().method(method).uri(path).header("host", "coldframe");
        request = request.header("content-type", content_type);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(body).map_err(|error| error.to_string())?;
        self.sender.send_request(request).await.map_err(|error| format!("{method} {path}: {error}"))
    }

    /// A JSON request, and whatever it is answered with.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Response<Bytes>, String> {
        let answer = self.send(method, path, "application/json", full(body.to_string())).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| format!("{method} {path}: {error}"))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// A JSON request; fails unless the answer is a success.
    pub(crate) async fn json(&mut self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.ask(method, path, body).await?;
        let (status, body) = (answer.status(), answer.body());
        if !status.is_success() {
            return Err(format!("{method} {path}: {status}: {}", String::from_utf8_lossy(body)));
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(body).map_err(|error| format!("{method} {path}: {error}"))
    }

    /// Starts a command. The body is the stream of what happens to it.
    pub(crate) async fn start(&mut self, command: &str, arguments: &[&str]) -> Result<Incoming, String> {
        let start = serde_json::json!({ "process": { "cmd": command, "args": arguments }, "stdin": false });
        self.start_process(&start).await
    }

    /// The same for a whole `StartRequest`.
    pub(crate) async fn start_process(&mut self, start: &Value) -> Result<Incoming, String> {
        let message = start.to_string();
        let mut envelope = vec![0_u8];
        envelope.extend(u32::try_from(message.len()).map_err(|error| error.to_string())?.to_be_bytes());
        envelope.extend(message.as_bytes());
        let answer =
            self.send("POST", "/process.Process/Start", "application/connect+json", full(envelope)).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let (_, body) = collect(answer).await?;
            return Err(format!("starting a process: {status}: {}", String::from_utf8_lossy(&body)));
        }
        Ok(answer.into_body())
    }

    /// Runs a command to its end and drops its output. Fails unless it exits with 0.
    pub(crate) async fn command(&mut self, command: &str, arguments: &[&str]) -> Result<(), String> {
        let mut body = self.start(command, arguments).await?;
        // Only the end matters: the messages before are dropped as they come.
        let mut tail: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            let data = frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default();
            tail.extend_from_slice(&data[data.len().saturating_sub(TAIL_BYTES)..]);
            tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
        }
        let tail = String::from_utf8_lossy(&tail);
        if tail.contains("\"exited\":true") && !tail.contains("\"exitCode\"") {
            return Ok(());
        }
        Err(format!("{command} did not end well: {tail}"))
    }
}

/// A page of a list with everything that clients may have sent to be kept with its sandboxes is shorter.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Longer than the end event and the end of the stream together.
const TAIL_BYTES: usize = 512;

pub(crate) async fn collect(answer: Response<Incoming>) -> Result<(StatusCode, Bytes), String> {
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, body))
}

/// The header that runs a command as `user`.
pub(crate) fn as_user(user: &str) -> (&'static str, String) {
    ("authorization", format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(format!("{user}:"))))
}
