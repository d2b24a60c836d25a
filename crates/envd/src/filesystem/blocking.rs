//! Work that may wait for a disk.

/// Does it on the blocking pool. It is done to the end even when the caller goes away meanwhile.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and nobody waits for an answer any more.
            Err(_) => std::future::pending().await,
        },
    }
}
