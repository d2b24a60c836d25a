//! The metadata service of a virtual machine monitor, as Firecracker has one (its version 2): it knows whose sandbox this
//! is. Only with `-mmds`.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use tokio::net::TcpStream;

/// For both requests together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// No answer that is of use here is longer.
const MAX_ANSWER_BYTES: usize = 64 << 10;
/// How long the service is to take the token of its own, in seconds. A new one is fetched every time: after a resume the
/// service is another one.
const TOKEN_SECONDS: &str = "60";

/// The service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Metadata {
    address: SocketAddr,
}

/// What it says.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    #[serde(rename = "instanceID")]
    pub(super) sandbox_id: String,
    #[serde(rename = "envID")]
    pub(super) template_id: String,
    /// SHA-512 of the access token, in hexadecimal; that of nothing when there is to be none.
    #[serde(rename = "accessTokenHash")]
    access_token_hash: String,
}

/// Why it says nothing.
#[derive(Debug, Error)]
pub(super) enum MetadataError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}")]
    Status(StatusCode),
    #[error("the answer is none: {0}")]
    Answer(String),
}

/// What the service says about a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the one.
    Matches,
    /// It is not.
    Differs,
    /// There is no service, or it knows of no token.
    Silent,
}

impl Facts {
    /// Whether this is the token that the service knows; `None` is the wish to have none.
    pub(super) fn judge(&self, token: Option<&str>) -> Verdict {
        if self.access_token_hash.is_empty() {
            return Verdict::Silent;
        }
        let hash = hex(&Sha512::digest(token.unwrap_or_default()));
        let known = self.access_token_hash.as_bytes();
        if bool::from(hash.as_bytes().ct_eq(known)) { Verdict::Matches } else { Verdict::Differs }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Metadata {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    /// Asks.
    ///
    /// # Errors
    /// When there is no answer in time, or none that makes sense.
    pub(super) async fn facts(&self) -> Result<Facts, MetadataError> {
        let exchange = async {
            let request = self
                .request(Method::PUT, "/latest/api/token")
                .header("X-metadata-token-ttl-seconds", TOKEN_SECONDS);
            let token = self.exchange(request).await?;
            let request = self
                .request(Method::GET, "/")
                .header("X-metadata-token", token.as_ref())
                .header(header::ACCEPT, "application/json");
            let facts = self.exchange(request).await?;
            serde_json::from_slice(&facts).map_err(|error| MetadataError::Answer(error.to_string()))
        };
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(io::Error::from)?
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let host = self.address.to_string();
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
    }

    async fn exchange(&self, request: http::request::Builder) -> Result<Bytes, MetadataError> {
        let answer = |error: &dyn ToString| MetadataError::Answer(error.to_string());
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| answer(&error))?;
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, mut connection) = http1::handshake(TokioIo::new(stream)).await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            if !response.status().is_success() {
                return Err(MetadataError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok(body.map_err(|error| answer(&error))?.to_bytes())
        };
        let mut exchange = std::pin::pin!(exchange);
        let mut ended = false;
        // The connection only moves while it is polled.
        poll_fn(|context| {
            if !ended {
                ended = std::pin::Pin::new(&mut connection).poll(context).is_ready();
            }
            exchange.as_mut().poll(context)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_hash() {
        let facts = |hash: &str| Facts { access_token_hash: hash.to_owned(), ..Facts::default() };
        let of = |token: &str| hex(&Sha512::digest(token));
        assert!(of("").starts_with("cf83e1357eefb8bd"));
        for (hash, token, expected) in [
            ("", None, Verdict::Silent),
            ("", Some("a"), Verdict::Silent),
            (of("a").as_str(), Some("a"), Verdict::Matches),
            (&of("a"), Some("b"), Verdict::Differs),
            (&of("a"), None, Verdict::Differs),
            (&of(""), None, Verdict::Matches),
            (&of(""), Some("a"), Verdict::Differs),
            ("nonsense", Some("a"), Verdict::Differs),
        ] {
            assert_eq!(facts(hash).judge(token), expected, "{hash} {token:?}");
        }
    }
}
