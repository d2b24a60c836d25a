//! Work on the root disk that somebody important waits for.
//!
//! The blocking pool may be full of writers that a frozen or slow disk holds. What the host asks for has a thread of its
//! own each time, and a time limit: the work goes on after that, its caller does too. Threads that a disk holds are
//! counted, so that asking again and again does not make more and more of them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};

/// Most pieces of work at once, unless said otherwise.
const MAX_THREADS: usize = 4;
/// The work calls the file system and little else.
const STACK_BYTES: usize = 256 << 10;

/// Where such work is done.
#[derive(Debug)]
pub(crate) struct Apart(Arc<Semaphore>);

impl Default for Apart {
    fn default() -> Self {
        Self::with_threads(MAX_THREADS)
    }
}

impl Apart {
    /// At most so many pieces of work at once.
    pub(crate) fn with_threads(threads: usize) -> Self {
        Self(Arc::new(Semaphore::new(threads)))
    }

    /// Does it, and waits for that for `limit` at most.
    ///
    /// # Errors
    /// What the work says, and `TimedOut` when it goes on or could not begin in time.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let deadline = Instant::now() + limit;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("it took longer than {limit:?}"));
        let room = timeout_at(deadline, Arc::clone(&self.0).acquire_owned()).await.map_err(late)?;
        let (outcome, done) = oneshot::channel();
        let thread = std::thread::Builder::new().name("apart".into()).stack_size(STACK_BYTES);
        thread.spawn(move || {
            let _room = room;
            // Whoever asked may have lost patience.
            let _ = outcome.send(work());
        })?;
        let ended = |_| io::Error::other("its thread ended without a word");
        timeout_at(deadline, done).await.map_err(late)?.unwrap_or_else(|error| Err(ended(error)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn stuck_work_is_left_alone_and_does_not_pile_up() {
        let apart = Apart::default();
        assert_eq!(apart.run(Duration::from_secs(20), || Ok(7)).await.unwrap(), 7);
        let (release, stuck) = mpsc::channel::<()>();
        let stuck = Arc::new(std::sync::Mutex::new(stuck));
        for _ in 0..2 * MAX_THREADS {
            let stuck = Arc::clone(&stuck);
            let work = move || {
                let _ = stuck.lock().map(|stuck| stuck.recv());
                Ok(())
            };
            let late = apart.run(Duration::from_millis(10), work).await;
            assert_eq!(late.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        drop(release);
        assert_eq!(apart.run(Duration::from_secs(20), || Ok(8)).await.unwrap(), 8);
        let panics = apart.run(Duration::from_secs(20), || -> io::Result<()> { panic!("on purpose") }).await;
        assert!(panics.unwrap_err().to_string().contains("without a word"));
    }
}
