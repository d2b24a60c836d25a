//! Files in a form (`multipart/form-data`, RFC 7578).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use http::header;
use multer::Multipart;

use super::disposition::{FormPart, form_part};
use super::source::{Source, SourceError};

/// Most bytes that are buffered in search of the next boundary or the end of the headers of a part.
const MAX_OVERHEAD: usize = 1 << 20;

/// The name of the fields that hold files.
const FILE_FIELD: &str = "file";

/// The parts of a form, one after the other.
pub(super) struct Form {
    parts: Multipart<'static>,
    unseen: Arc<AtomicUsize>,
}

/// A file in a form.
pub(super) struct FormFile {
    /// Its name, with slashes.
    pub(super) filename: Option<String>,
    /// Its contents.
    pub(super) contents: Source,
}

impl Form {
    /// The form in a body.
    ///
    /// # Errors
    ///
    /// What is wrong with the content type, for people.
    pub(super) fn new(content_type: &str, body: Source) -> Result<Self, String> {
        let boundary = multer::parse_boundary(content_type).map_err(|error| error.to_string())?;
        let unseen = Arc::new(AtomicUsize::new(0));
        let guarded = Guarded { body, unseen: Arc::clone(&unseen), breathe: false };
        Ok(Self { parts: Multipart::new(guarded, boundary), unseen })
    }

    /// The next file. Whatever else is in the form is skipped.
    ///
    /// # Errors
    ///
    /// When the form is not one, or the client does not send all of it.
    pub(super) async fn next_file(&mut self) -> Result<Option<FormFile>, SourceError> {
        while let Some(mut part) = self.parts.next_field().await.map_err(reason)? {
            self.unseen.store(0, Ordering::Relaxed);
            let unseen = Arc::clone(&self.unseen);
            let disposition = part.headers().get(header::CONTENT_DISPOSITION);
            let FormPart { name, filename } =
                disposition.map(|value| form_part(value.as_bytes())).unwrap_or_default();
            if name.as_deref() == Some(FILE_FIELD) {
                let contents =
                    part.map_err(reason).inspect_ok(move |_| unseen.store(0, Ordering::Relaxed)).boxed();
                return Ok(Some(FormFile { filename, contents }));
            }
            while part.chunk().await.map_err(reason)?.is_some() {
                unseen.store(0, Ordering::Relaxed);
            }
        }
        Ok(None)
    }
}

fn reason(error: multer::Error) -> SourceError {
    match error {
        multer::Error::StreamReadFailed(inner) => match inner.downcast::<SourceError>() {
            Ok(inner) => *inner,
            Err(inner) => SourceError(inner.to_string()),
        },
        error => SourceError(error.to_string()),
    }
}

/// Keeps the parser from buffering without end. It takes all that is ready before it looks at any of it, so there is a
/// break after each piece; and it waits for a boundary or for the end of headers as long as it takes, so there is a
/// limit to how much it may take without anything coming out of it.
struct Guarded {
    body: Source,
    unseen: Arc<AtomicUsize>,
    breathe: bool,
}

impl Stream for Guarded {
    type Item = Result<Bytes, SourceError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.breathe) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = self.body.poll_next_unpin(context);
        if let Poll::Ready(Some(Ok(bytes))) = &polled {
            self.breathe = true;
            let unseen = self.unseen.fetch_add(bytes.len(), Ordering::Relaxed);
            // The first piece may be as large as it likes: it is there already.
            if unseen > MAX_OVERHEAD {
                return Poll::Ready(Some(Err(SourceError(
                    "the form has no boundary where there should be one".to_owned(),
                ))));
            }
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=XX";

    fn body(pieces: Vec<Vec<u8>>) -> Source {
        stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed()
    }

    async fn read(pieces: Vec<Vec<u8>>) -> Result<Vec<(Option<String>, Vec<u8>)>, String> {
        let mut form = Form::new(TYPE, body(pieces))?;
        let mut files = Vec::new();
        while let Some(mut file) = form.next_file().await.map_err(|error| error.to_string())? {
            let mut contents = Vec::new();
            while let Some(chunk) = file.contents.next().await {
                contents.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
            }
            files.push((file.filename, contents));
        }
        Ok(files)
    }

    fn two_files() -> Vec<u8> {
        let mut form = Vec::new();
        form.extend_from_slice(
            b"preamble\r\n--XX\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nskip me\r\n",
        );
        form.extend_from_slice(
            b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"/a/b.txt\"\r\n\r\n",
        );
        form.extend_from_slice(b"one\r\n--X not yet\r\n");
        form.extend_from_slice(
            b"\r\n--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"c d\"\r\n",
        );
        form.extend_from_slice(b"Content-Type: application/octet-stream\r\n\r\n\r\n--XX--\r\nepilogue");
        form
    }

    #[tokio::test]
    async fn files_and_only_files() {
        let expected = vec![
            (Some("/a/b.txt".to_owned()), b"one\r\n--X not yet\r\n".to_vec()),
            (Some("c d".to_owned()), vec![]),
        ];
        let form = two_files();
        assert_eq!(read(vec![form.clone()]).await, Ok(expected.clone()));
        for size in [1, 2, 3, 7, 50] {
            let pieces = form.chunks(size).map(<[u8]>::to_vec).collect();
            assert_eq!(read(pieces).await, Ok(expected.clone()), "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn broken_forms() {
        assert!(Form::new("multipart/form-data", body(vec![])).is_err());
        let form = two_files();
        for length in [0, 9, 40, 100, 180, form.len() - 14] {
            assert!(read(vec![form[..length].to_vec()]).await.is_err(), "{length}");
        }
    }

    #[tokio::test]
    async fn endless_headers_are_cut_off() {
        let mut pieces = vec![b"--XX\r\nContent-Disposition: ".to_vec()];
        pieces.extend(std::iter::repeat_n(vec![b'x'; 64 << 10], 64));
        assert!(read(pieces).await.unwrap_err().contains("boundary"));
        assert!(read(vec![vec![b'x'; 64 << 10]; 64]).await.unwrap_err().contains("boundary"));
    }
}
