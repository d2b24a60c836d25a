//! The node's side of the control socket.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::{Assignment, Checkpoint, EndTime, Event, Keep, LogFilter, Status};

/// A supervisor answers from memory; only its death makes it slower than this.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A VMM starts within a tenth of a second, and on a busy host in a few.
const STANDBY_TIMEOUT: Duration = Duration::from_secs(30);
/// A machine that is held for a debugger has to be there first.
const DEBUGGER_TIMEOUT: Duration = Duration::from_secs(60);
/// Logs are read from disk.
const LOGS_TIMEOUT: Duration = Duration::from_secs(20);
/// Writing a large memory to a slow disk. Each step of a pause has a deadline of its own in the supervisor.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(900);
/// The largest answer: a day of metrics or a full log.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// The longest event line.
const MAX_EVENT_BYTES: usize = 64 << 10;

/// A supervisor could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the supervisor is dead.
    #[error("no supervisor listens on {}: {source}", path.display())]
    Dead {
        /// The control socket.
        path: PathBuf,
        /// What connect said.
        source: std::io::Error,
    },
    /// It did not answer in time.
    #[error("the supervisor on {} did not answer {request} within {waited:?}", path.display())]
    Slow {
        /// The control socket.
        path: PathBuf,
        /// What was asked.
        request: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// It answered with an error.
    #[error("the supervisor refused {request}: {message}")]
    Refused {
        /// What was asked.
        request: &'static str,
        /// HTTP status of the answer.
        status: StatusCode,
        /// Its words.
        message: String,
    },
    /// The connection broke, or the answer made no sense.
    #[error("talking to the supervisor: {0}")]
    Broken(String),
}

impl ClientError {
    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Asks one supervisor. Cheap to clone; every call is a connection of its own, so nothing is held between calls.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the supervisor whose sandbox directory is `dir`.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { socket: dir.join(crate::SOCKET_FILE) }
    }

    /// Returns when a machine stands by.
    pub async fn standby(&self) -> Result<(), ClientError> {
        self.call(Method::GET, "/v1/standby", &(), STANDBY_TIMEOUT).await.map(drop)
    }

    /// Makes a machine that stands by a sandbox's.
    pub async fn assign(&self, assignment: &Assignment) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/assign", assignment, CALL_TIMEOUT).await.map(drop)
    }

    /// What the supervisor knows.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.json(Method::GET, "/v1/status", &(), CALL_TIMEOUT).await
    }

    /// Moves the end time; returns the status with the time that now holds.
    pub async fn set_end(&self, end: EndTime) -> Result<Status, ClientError> {
        self.json(Method::PUT, "/v1/end", &end, CALL_TIMEOUT).await
    }

    /// Asks for the sandbox's end; [`Event::Ended`] says when it came.
    pub async fn kill(&self) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/kill", &(), CALL_TIMEOUT).await.map(drop)
    }

    /// Pauses the sandbox. When this returns, the build and the record of it are on stable storage, and the end of the
    /// sandbox is under way.
    pub async fn pause(&self, keep: Keep) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/pause", &keep, PAUSE_TIMEOUT).await.map(drop)
    }

    /// Makes a build of what the sandbox is now; it runs on. When this returns, the build is on stable storage.
    pub async fn snapshot(&self, wanted: &Checkpoint) -> Result<(), ClientError> {
        self.call(Method::POST, "/v1/snapshot", wanted, PAUSE_TIMEOUT).await.map(drop)
    }

    /// Every kept sample, oldest first.
    pub async fn metrics(&self) -> Result<Vec<model::MetricSample>, ClientError> {
        self.json(Method::GET, "/v1/metrics", &(), CALL_TIMEOUT).await
    }

    /// The lines that the filter wants.
    pub async fn logs(&self, filter: &LogFilter) -> Result<Vec<model::LogEntry>, ClientError> {
        self.json(Method::POST, "/v1/logs", filter, LOGS_TIMEOUT).await
    }

    /// Listens to the supervisor until it ends.
    pub async fn events(&self) -> Result<Events, ClientError> {
        let body = tokio::time::timeout(CALL_TIMEOUT, self.send(Method::GET, "/v1/events", &()))
            .await
            .map_err(|_| self.slow("/v1/events", CALL_TIMEOUT))??;
        Ok(Events { body, buffer: Vec::new() })
    }

    /// Has the machine let debuggers in, until what is returned is dropped.
    pub async fn debugger(&self) -> Result<Debugging, ClientError> {
        let opened = async {
            let mut body = self.send(Method::GET, "/v1/debugger", &()).await?;
            match body.frame().await {
                Some(Ok(_)) => Ok(Debugging { body }),
                _ => Err(ClientError::Broken("it ended before a debugger could connect".into())),
            }
        };
        tokio::time::timeout(DEBUGGER_TIMEOUT, opened)
            .await
            .map_err(|_| self.slow("/v1/debugger", DEBUGGER_TIMEOUT))?
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &'static str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, ClientError> {
        let answer = self.call(method, path, body, limit).await?;
        serde_json::from_slice(&answer).map_err(ClientError::broken)
    }

    async fn call(
        &self,
        method: Method,
        path: &'static str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<Bytes, ClientError> {
        let exchange = async {
            let body = self.send(method, path, body).await?;
            Ok(Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(ClientError::broken)?.to_bytes())
        };
        tokio::time::timeout(limit, exchange).await.map_err(|_| self.slow(path, limit))?
    }

    async fn send(
        &self,
        method: Method,
        path: &'static str,
        body: &impl Serialize,
    ) -> Result<Incoming, ClientError> {
        let body = serde_json::to_vec(body).map_err(ClientError::broken)?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(ClientError::broken)?;
        // Ends when the answer was read or its reader is gone.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, "supervisor")
            .body(Full::new(Bytes::from(body)))
            .map_err(ClientError::broken)?;
        let (head, body) = sender.send_request(request).await.map_err(ClientError::broken)?.into_parts();
        if head.status.is_success() {
            return Ok(body);
        }
        let text =
            Limited::new(body, MAX_EVENT_BYTES).collect().await.map_err(ClientError::broken)?.to_bytes();
        let message = String::from_utf8_lossy(&text).into_owned();
        Err(ClientError::Refused { request: path, status: head.status, message })
    }

    /// Only what the kernel says of the socket tells that nobody listens. That we are short of descriptors, or that the
    /// queue of a hung supervisor is full, does not.
    fn unreachable(&self, source: std::io::Error) -> ClientError {
        let path = self.socket.clone();
        match source.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => ClientError::Dead { path, source },
            _ => ClientError::Broken(format!("connecting to {}: {source}", path.display())),
        }
    }

    fn slow(&self, request: &'static str, waited: Duration) -> ClientError {
        ClientError::Slow { path: self.socket.clone(), request, waited }
    }
}

/// What one supervisor pushes.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the supervisor is gone.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(ClientError::broken);
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                return Err(ClientError::Broken(format!("an event of more than {MAX_EVENT_BYTES} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                // A killed supervisor cuts its answer short: its end, not an error of its own.
                Some(Err(_)) => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
            }
        }
    }
}

/// A machine that lets debuggers in. Dropping it cuts them off.
#[derive(Debug)]
pub struct Debugging {
    body: Incoming,
}

impl Debugging {
    /// Returns when the machine is gone.
    pub async fn ended(&mut self) {
        while let Some(Ok(_)) = self.body.frame().await {}
    }
}
