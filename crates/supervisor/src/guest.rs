//! The supervisor's requests to the guest daemon. The sandbox's namespace is the supervisor's own, so these are plain
//! connections; the answers come from the guest and are bounded.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use model::{MetricSample, SandboxSpec};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// envd answers metrics from memory; a guest that is starved of CPU takes longer.
const METRICS_TIMEOUT: Duration = Duration::from_secs(4);
/// One attempt of `/init`; the whole has a deadline of its own in the lifecycle.
const INIT_ATTEMPT: Duration = Duration::from_secs(3);
/// Coming to rest is a courtesy: a daemon that does not answer is stopped as it is.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(2);
/// The most that a kernel's generator holds.
const ENTROPY_BYTES: usize = 64;
/// No answer that is read here is longer.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// So much of what a guest answers is repeated in an error.
const MAX_QUOTE_BYTES: usize = 512;

/// The user that commands run as unless a client names one.
const DEFAULT_USER: &str = "user";

/// Talks to one guest daemon.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    address: SocketAddrV4,
    token: Option<model::Secret>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Init<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<&'a str>,
    env_vars: &'a std::collections::BTreeMap<String, String>,
    timestamp: jiff::Timestamp,
    default_user: &'a str,
    #[serde(rename = "lifecycleID")]
    lifecycle_id: &'a str,
    sandbox_id: &'a str,
    template_id: &'a str,
    /// The name of the machine.
    hostname: &'a str,
    /// Fresh randomness in hexadecimal: machines that go on from the same build must not draw the same numbers.
    entropy: &'a str,
}

#[derive(Deserialize)]
struct Metrics {
    cpu_count: u32,
    cpu_used_pct: f32,
    mem_total: u64,
    mem_used: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

impl Guest {
    pub(crate) fn new(address: Ipv4Addr, spec: &SandboxSpec) -> Self {
        Self { address: SocketAddrV4::new(address, model::ENVD_PORT), token: spec.envd_token.clone() }
    }

    /// Tells the daemon who it is; tried again until it takes it or the caller gives up.
    pub(crate) async fn init(&self, spec: &SandboxSpec, lifecycle_id: &str) -> Result<(), String> {
        let entropy = model::Secret::random("", ENTROPY_BYTES);
        loop {
            let body = serde_json::to_vec(&Init {
                access_token: spec.envd_token.as_ref().map(model::Secret::expose),
                env_vars: &spec.env,
                timestamp: jiff::Timestamp::now(),
                default_user: DEFAULT_USER,
                lifecycle_id,
                sandbox_id: spec.id.as_str(),
                template_id: spec.template.as_str(),
                hostname: spec.id.as_str(),
                entropy: entropy.expose(),
            })
            .map_err(|error| format!("writing the guest daemon's identity: {error}"))?;
            match tokio::time::timeout(INIT_ATTEMPT, self.call(Method::POST, "/init", body)).await {
                Ok(Ok((status, _))) if status.is_success() => return Ok(()),
                Ok(Ok((status, text))) if status.is_client_error() => {
                    let text = printable(&text);
                    return Err(format!("the guest daemon refused its identity: {status}: {text}"));
                }
                Ok(Ok((status, _))) => tracing::warn!(%status, "initialising the guest daemon, trying again"),
                Ok(Err(error)) => tracing::warn!(error, "initialising the guest daemon, trying again"),
                Err(_) => tracing::warn!("initialising the guest daemon timed out, trying again"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets the daemon come to rest before the machine is stopped. The next `init` sets it going again.
    pub(crate) async fn prepare(&self) -> Result<(), String> {
        self.ask("/snapshot/prepare", PREPARE_TIMEOUT).await
    }

    /// Has the guest write out what its file systems hold back, for at most `limit`.
    pub(crate) async fn sync(&self, limit: Duration) -> Result<(), String> {
        self.ask("/sync", limit).await
    }

    /// Has the guest keep its root file system as it is: all that was written is on the disk, and whoever writes waits.
    pub(crate) async fn freeze(&self, limit: Duration) -> Result<(), String> {
        self.ask("/fsfreeze", limit).await
    }

    /// Lets everybody write again. Nothing happens to a file system that is not frozen.
    pub(crate) async fn thaw(&self, limit: Duration) -> Result<(), String> {
        self.ask("/fsthaw", limit).await
    }

    async fn ask(&self, path: &str, limit: Duration) -> Result<(), String> {
        let answer = tokio::time::timeout(limit, self.call(Method::POST, path, Vec::new()));
        match answer.await.map_err(|_| format!("no answer within {limit:?}"))? {
            Ok((status, _)) if status.is_success() => Ok(()),
            Ok((status, text)) => Err(format!("status {status}: {}", printable(&text))),
            Err(error) => Err(error),
        }
    }

    /// One sample of what the guest uses now.
    pub(crate) async fn metrics(&self) -> Result<MetricSample, String> {
        let call = self.call(Method::GET, "/metrics", Vec::new());
        let (status, body) = tokio::time::timeout(METRICS_TIMEOUT, call)
            .await
            .map_err(|_| format!("no answer within {METRICS_TIMEOUT:?}"))??;
        if !status.is_success() {
            return Err(format!("status {status}"));
        }
        let metrics: Metrics = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(MetricSample {
            timestamp: jiff::Timestamp::now(),
            cpu_count: metrics.cpu_count,
            cpu_used_pct: if metrics.cpu_used_pct.is_finite() { metrics.cpu_used_pct } else { 0.0 },
            mem_used: metrics.mem_used,
            mem_total: metrics.mem_total,
            mem_cache: metrics.mem_cache,
            disk_used: metrics.disk_used,
            disk_total: metrics.disk_total,
        })
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<(http::StatusCode, Bytes), String> {
        let stream =
            TcpStream::connect(self.address).await.map_err(|error| format!("connecting: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_ANSWER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        // Ends with the sender, which is dropped at the end of this call.
        tokio::task::spawn_local(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "envd")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header("X-Access-Token", token.expose());
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }
}

/// The beginning of what a guest said, fit for a log and for a client's eyes.
fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_QUOTE_BYTES)]);
    text.trim().chars().filter(|c| !c.is_control()).collect()
}
