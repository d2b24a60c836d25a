//! Debug artifacts from wherever an operator keeps them.
//!
//! Below a base URL, `file://` or `https://`, an artifact is a file by its name, and beside it a file with `.sha256` behind the
//! name: the digest in hexadecimal, which may be followed by a space and anything else, as `sha256sum` prints it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sha2::{Digest, Sha256};

/// The variable that holds the base URL.
pub(super) const VARIABLE: &str = "COLDFRAME_DEBUG_ARTIFACTS_URL";
/// A kernel with its symbols is some 600 MB.
const MAX_BYTES: u64 = 8 << 30;
/// A digest and a file name.
const MAX_SUM_BYTES: u64 = 4 << 10;
/// For a connection and the head of an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// For the next piece of an answer.
const IDLE: Duration = Duration::from_secs(30);
/// For all of it.
const WHOLE: Duration = Duration::from_secs(1800);
const COPY_BYTES: usize = 256 << 10;

/// A place for artifacts.
#[derive(Debug)]
pub(super) enum Artifacts {
    Directory(PathBuf),
    Server(String),
}

impl Artifacts {
    /// The place that a base URL leads to.
    pub(super) fn at(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("file://") {
            return match Path::new(path) {
                path if path.is_absolute() => Ok(Self::Directory(path.to_owned())),
                _ => Err(format!("{VARIABLE} is {url:?}: what follows file:// has to be an absolute path")),
            };
        }
        if url.starts_with("https://") {
            return Ok(Self::Server(url.trim_end_matches('/').to_owned()));
        }
        Err(format!("{VARIABLE} is {url:?}: it has to begin with file:// or https://"))
    }

    /// Where an artifact would be, for people.
    pub(super) fn location(&self, name: &str) -> String {
        match self {
            Self::Directory(path) => path.join(name).display().to_string(),
            Self::Server(url) => format!("{url}/{name}"),
        }
    }

    /// Writes an artifact to a file; false when there is none of that name.
    ///
    /// # Errors
    /// When it cannot be had, or is not what its digest says.
    pub(super) fn fetch(&self, name: &str, into: &mut File) -> Result<bool, String> {
        let location = self.location(name);
        let sum_name = format!("{name}.sha256");
        let mut digest = Hashing { into, hash: Sha256::new() };
        if !self.copy(name, MAX_BYTES, &mut digest)? {
            return Ok(false);
        }
        let found: String = digest.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sum = Vec::new();
        if !self.copy(&sum_name, MAX_SUM_BYTES, &mut sum)? {
            return Err(format!("{location} has no checksum: there is no {}", self.location(&sum_name)));
        }
        let sum = String::from_utf8_lossy(&sum);
        let wanted = sum.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        if wanted != found {
            return Err(format!(
                "{location} is damaged: its SHA-256 is {found}, and {sum_name} says {wanted:?}"
            ));
        }
        Ok(true)
    }

    fn copy(&self, name: &str, limit: u64, into: &mut impl Write) -> Result<bool, String> {
        let failed = |error: &dyn std::fmt::Display| format!("fetching {}: {error}", self.location(name));
        match self {
            Self::Directory(path) => match File::open(path.join(name)) {
                Ok(file) => {
                    // One more than may be there tells that there is more.
                    let copied = io::copy(&mut file.take(limit + 1), into).map_err(|error| failed(&error))?;
                    if copied > limit { Err(failed(&too_long(limit))) } else { Ok(true) }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                Err(error) => Err(failed(&error)),
            },
            Self::Server(url) => {
                let uri = format!("{url}/{name}").parse().map_err(|error| failed(&error))?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| failed(&error))?;
                let got =
                    runtime.block_on(async { tokio::time::timeout(WHOLE, get(uri, limit, into)).await });
                got.map_err(|_| failed(&format!("not done within {WHOLE:?}")))?
                    .map_err(|error| failed(&error))
            }
        }
    }
}

fn too_long(limit: u64) -> String {
    format!("it is longer than the {limit} bytes allowed")
}

/// Whatever is written to it.
struct Hashing<'a> {
    into: &'a mut File,
    hash: Sha256,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}

/// A GET over TLS, with the certificates that this host trusts. Redirections are not followed: a base URL says where things
/// are.
async fn get(uri: Uri, limit: u64, into: &mut impl Write) -> Result<bool, String> {
    let tls = HttpsConnectorBuilder::new().with_native_roots();
    let tls = tls.map_err(|error| format!("reading the certificates that this host trusts: {error}"))?;
    let client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build(tls.https_only().enable_http1().build());
    let answer = tokio::time::timeout(PATIENCE, client.get(uri)).await;
    let answer =
        answer.map_err(|_| format!("no answer within {PATIENCE:?}"))?.map_err(|error| whole(&error))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(false),
        status => return Err(format!("the server answers {status}")),
    }
    let (mut body, mut length) = (answer.into_body(), 0);
    let mut into = io::BufWriter::with_capacity(COPY_BYTES, into);
    loop {
        let frame = tokio::time::timeout(IDLE, body.frame()).await;
        let Some(frame) = frame.map_err(|_| format!("nothing more within {IDLE:?}"))? else {
            into.flush().map_err(|error| error.to_string())?;
            return Ok(true);
        };
        let data = frame.map_err(|error| whole(&error))?.into_data().unwrap_or_default();
        length += data.len() as u64;
        if length > limit {
            return Err(too_long(limit));
        }
        into.write_all(&data).map_err(|error| error.to_string())?;
    }
}

/// An error with its causes: that a certificate is not trusted is the last of them.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
