//! See [`crate::fuzzing`].

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, header};

use super::encoding::{Encoding, negotiate};
use super::form::Form;
use super::source::{Source, SourceError, source};

/// A file of a form: its name and its contents.
pub type NamedFile = (Option<String>, Vec<u8>);

/// Most bytes that are kept of what something unpacks to: a bomb is to be small here, too.
const MAX_KEPT: usize = 16 << 20;

fn body(pieces: Vec<Vec<u8>>) -> Source {
    stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed()
}

/// The files of a form, whose body comes in pieces: name and contents. What was wrong, for people, when it is none.
///
/// # Errors
/// As above.
pub fn form_files(content_type: &str, pieces: Vec<Vec<u8>>) -> Result<Vec<NamedFile>, String> {
    in_a_runtime(async {
        let mut form = Form::new(content_type, body(pieces))?;
        let mut files = Vec::new();
        while let Some(mut file) = form.next_file().await.map_err(|error| error.to_string())? {
            let contents = all(&mut file.contents).await.map_err(|error| error.to_string())?;
            files.push((file.filename, contents));
        }
        Ok(files)
    })
}

/// A body with this `Content-Encoding`, unpacked: no more than some MiB of it.
///
/// # Errors
/// What was wrong, for people.
pub fn unpacked(encoding: &[u8], pieces: Vec<Vec<u8>>) -> Result<Vec<u8>, String> {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_bytes(encoding).map_err(|error| error.to_string())?;
    headers.insert(header::CONTENT_ENCODING, value);
    let pieces = pieces.into_iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
    in_a_runtime(async {
        let mut source = source(&headers, axum::body::Body::from_stream(stream::iter(pieces)))?;
        all(&mut source).await.map_err(|error| error.to_string())
    })
}

/// What is chosen for the values of `Accept-Encoding`: `Some(true)` for gzip, `Some(false)` for none, `None` when nothing
/// will do. With `plain`, there is only the plain form.
#[must_use]
pub fn accepted_encoding(values: &[&str], plain: bool) -> Option<bool> {
    negotiate(values.iter().copied(), plain).ok().map(|encoding| encoding == Encoding::Gzip)
}

async fn all(source: &mut Source) -> Result<Vec<u8>, SourceError> {
    let mut contents = Vec::new();
    while let Some(piece) = source.next().await {
        let piece = piece?;
        assert!(!piece.is_empty() || contents.len() < MAX_KEPT, "pieces that say nothing");
        contents.extend_from_slice(&piece);
        if contents.len() > MAX_KEPT {
            break;
        }
    }
    Ok(contents)
}

fn in_a_runtime<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    runtime.block_on(work)
}
