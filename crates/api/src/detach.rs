use std::future::Future;

use crate::error::ApiError;

/// Runs what changes something on its own task: it goes on when the client goes away or the deadline passes.
pub(crate) async fn detach<T, F>(work: F) -> Result<T, ApiError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, ApiError>> + Send + 'static,
{
    tokio::spawn(work).await.map_err(|error| ApiError::internal(&error))?
}
