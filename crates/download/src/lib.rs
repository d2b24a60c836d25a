//! GET over TLS, for what comes from elsewhere: an answer is waited for so long and no longer, a body has so many bytes and no
//! more, and the digest of what came is told.
//!
//! Redirections are the caller's business: who may be sent where depends on what is fetched. Errors are for people, and say
//! where something came from.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sha2::{Digest, Sha256};

/// For a connection and the head of an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// For the next piece of a body.
const IDLE: Duration = Duration::from_secs(60);
/// For all of a body: what is fetched has gigabytes at most.
const WHOLE: Duration = Duration::from_secs(3600);

/// Whether connections without TLS are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plain {
    /// None.
    Never,
    /// Where the address says `http`: for this host, where nobody listens in.
    AsAsked,
}

/// A client that trusts the certificates that this host trusts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Https {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl Https {
    /// A client without connections.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn new(plain: Plain) -> Result<Self, String> {
        let tls = HttpsConnectorBuilder::new().with_native_roots();
        let tls = tls.map_err(|error| format!("reading the certificates that this host trusts: {error}"))?;
        let connector = match plain {
            Plain::Never => tls.https_only(),
            Plain::AsAsked => tls.https_or_http(),
        };
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector.enable_http1().build()) })
    }

    /// The answer of `uri`, whatever its status.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn get(
        &self,
        uri: &Uri,
        accept: &str,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, String> {
        let mut request = Request::get(uri).header(ACCEPT, accept);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        let request = request.body(Empty::new()).map_err(|error| format!("{uri}: {error}"))?;
        let answer = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        let answer = answer.map_err(|_| format!("{uri} does not answer within {PATIENCE:?}"))?;
        answer.map_err(|error| format!("{uri}: {}", whole(&error)))
    }
}

/// Writes the body of an answer, at most `limit` bytes. What comes back is its SHA-256, in hexadecimal.
///
/// # Errors
/// When it is longer, ends too early, comes too slowly, or cannot be written.
pub async fn receive(
    answer: Response<Incoming>,
    limit: u64,
    into: &mut impl Write,
) -> Result<String, String> {
    let (mut body, mut length, mut hash) = (answer.into_body(), 0_u64, Sha256::new());
    let receiving = async {
        loop {
            let frame = tokio::time::timeout(IDLE, body.frame()).await;
            let Some(frame) = frame.map_err(|_| format!("nothing more came within {IDLE:?}"))? else {
                return Ok(());
            };
            let data = frame.map_err(|error| whole(&error))?.into_data().unwrap_or_default();
            length += data.len() as u64;
            if length > limit {
                return Err(format!("what came is longer than the {limit} bytes allowed"));
            }
            hash.update(&data);
            into.write_all(&data).map_err(|error: io::Error| format!("keeping what came: {error}"))?;
        }
    };
    tokio::time::timeout(WHOLE, receiving)
        .await
        .map_err(|_| format!("it was not done within {WHOLE:?}"))??;
    Ok(hexadecimal(&hash.finalize()))
}

/// Bytes as digests are written.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An error with its causes: that a certificate is not trusted is the last of them.
#[must_use]
pub fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that says this to whoever comes.
    async fn saying(text: &'static str) -> Uri {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        format!("http://{address}/x").parse().unwrap()
    }

    async fn received(text: &'static str, limit: u64) -> Result<(Vec<u8>, String), String> {
        let answer = Https::new(Plain::AsAsked)?.get(&saying(text).await, "*/*", None).await?;
        let mut bytes = Vec::new();
        let digest = receive(answer, limit, &mut bytes).await?;
        Ok((bytes, digest))
    }

    #[tokio::test]
    async fn what_comes_has_a_digest_and_a_limit_and_an_end() {
        let whole = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        let (bytes, digest) = received(whole, 3).await.unwrap();
        assert_eq!(bytes, b"abc");
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(received(whole, 2).await.unwrap_err().contains("longer than the 2 bytes"));
        assert!(received("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabc", 9).await.is_err(), "cut off");
        assert!(received("nonsense", 9).await.is_err());
    }

    #[tokio::test]
    async fn without_tls_only_where_that_was_asked_for() {
        let uri = saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert!(Https::new(Plain::Never).unwrap().get(&uri, "*/*", None).await.is_err());
        assert!(Https::new(Plain::AsAsked).unwrap().get(&uri, "*/*", None).await.is_ok());
    }
}
