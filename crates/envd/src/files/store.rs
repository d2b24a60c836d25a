//! Writing what comes from a client to a file.
//!
//! While one batch is being written on the blocking pool, the next one is collected from the socket. A slow disk makes
//! batches large, a slow client makes them small; neither holds a thread while it waits for the other.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::memory;
use super::source::{Source, SourceError};
use super::target::{Plan, Target};
use crate::error::HttpError;
use crate::filesystem::blocking;

/// Bytes collected while the batch before is being written, before the client has to wait.
const MAX_BATCH: usize = 1 << 20;

/// A batch being written.
type Writing = Pin<Box<dyn Future<Output = Result<Target, HttpError>> + Send>>;

/// Writes all that comes. What had come before an error is in the file.
///
/// # Errors
///
/// 400 when the client does not send all of it, and what [`Target`] has to say.
pub(super) async fn store(plan: Plan, source: &mut Source) -> Result<(), HttpError> {
    let mut resting = Some(blocking(move || Target::open(plan)).await?);
    let mut writing: Option<Writing> = None;
    let mut batch: Vec<Bytes> = Vec::new();
    let mut collected = 0;
    let mut end: Option<Result<(), SourceError>> = None;
    loop {
        if collected > 0
            && let Some(mut target) = resting.take()
        {
            let batch = std::mem::take(&mut batch);
            memory::passed(std::mem::take(&mut collected));
            // A target that fails is let go of over there: that, too, may have to wait for the disk.
            writing = Some(Box::pin(blocking(move || target.write(&batch).map(|()| target))));
        }
        if end.is_some() && writing.is_none() {
            break;
        }
        tokio::select! {
            // In this order: the writing begins when it is looked at first.
            biased;
            written = done(&mut writing), if writing.is_some() => {
                writing = None;
                resting = Some(written?);
            }
            chunk = source.next(), if end.is_none() && collected < MAX_BATCH => match chunk {
                Some(Ok(bytes)) => {
                    collected += bytes.len();
                    batch.push(bytes);
                }
                Some(Err(error)) => end = Some(Err(error)),
                None => end = Some(Ok(())),
            },
        }
    }
    let outcome = end.unwrap_or(Ok(()));
    blocking(move || match (outcome, resting) {
        (Ok(()), Some(target)) => target.finish(),
        (Ok(()), None) => Ok(()),
        (Err(error), _) => Err(HttpError::bad_request(error.to_string())),
    })
    .await
}

async fn done(writing: &mut Option<Writing>) -> Result<Target, HttpError> {
    match writing {
        Some(writing) => writing.await,
        None => std::future::pending().await,
    }
}
