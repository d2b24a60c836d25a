//! Debug artifacts from wherever an operator keeps them.
//!
//! Below a base URL, `file://` or `https://`, an artifact is a file by its name, and beside it a file with `.sha256` behind the
//! name: the digest in hexadecimal, which may be followed by a space and anything else, as `sha256sum` prints it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use download::{Https, Plain, hexadecimal, receive};
use http::StatusCode;
use sha2::{Digest, Sha256};

/// The variable that holds the base URL.
pub(super) const VARIABLE: &str = "COLDFRAME_DEBUG_ARTIFACTS_URL";
/// A kernel with its symbols is some 600 MB.
const MAX_BYTES: u64 = 8 << 30;
/// A digest and a file name.
const MAX_SUM_BYTES: u64 = 4 << 10;

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
        let Some(found) = self.copy(name, MAX_BYTES, into)? else { return Ok(false) };
        let mut sum = Vec::new();
        if self.copy(&sum_name, MAX_SUM_BYTES, &mut sum)?.is_none() {
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

    /// Writes what is there, at most `limit` bytes. Its SHA-256; `None` when nothing is there.
    fn copy(&self, name: &str, limit: u64, into: &mut impl Write) -> Result<Option<String>, String> {
        let failed = |error: &dyn std::fmt::Display| format!("fetching {}: {error}", self.location(name));
        match self {
            Self::Directory(path) => match File::open(path.join(name)) {
                Ok(file) => {
                    let mut hashing = Hashing { into, hash: Sha256::new() };
                    // One more than may be there tells that there is more.
                    let copied =
                        io::copy(&mut file.take(limit + 1), &mut hashing).map_err(|error| failed(&error))?;
                    if copied > limit {
                        return Err(failed(&format!("it is longer than the {limit} bytes allowed")));
                    }
                    Ok(Some(hexadecimal(&hashing.hash.finalize())))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(&error)),
            },
            Self::Server(url) => {
                let uri = format!("{url}/{name}").parse().map_err(|error| failed(&error))?;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let got = runtime.map_err(|error| failed(&error))?.block_on(async {
                    // Redirections are not followed: a base URL says where things are.
                    let answer = Https::new(Plain::Never)?.get(&uri, "*/*", None).await?;
                    match answer.status() {
                        StatusCode::OK => receive(answer, limit, into).await.map(Some),
                        StatusCode::NOT_FOUND => Ok(None),
                        status => Err(format!("the server answers {status}")),
                    }
                });
                got.map_err(|error: String| failed(&error))
            }
        }
    }
}

/// Whatever is written to it.
struct Hashing<'a, W> {
    into: &'a mut W,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.into.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.into.flush()
    }
}
