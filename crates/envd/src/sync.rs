//! `POST /sync`: everything that was written before the request is on the disks before the answer. For the host only.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use http::StatusCode;
use tokio::sync::watch;

use crate::filesystem::blocking;
use crate::state::Envd;

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/sync", post(sync)).with_state(state)
}

async fn sync(State(envd): State<Arc<Envd>>) -> StatusCode {
    envd.flush().everything().await;
    StatusCode::NO_CONTENT
}

/// Flushes the disks, once at a time. A disk may be stuck, so this happens where it blocks nobody else, and however many
/// ask meanwhile, there is one that runs and at most one that follows.
#[derive(Debug, Clone)]
pub(crate) struct Flush {
    progress: Arc<Mutex<Progress>>,
    finished: Arc<watch::Sender<u64>>,
    work: fn(),
}

#[derive(Debug, Default)]
struct Progress {
    /// Number of the last one that was begun.
    begun: u64,
    /// Number of the last one that somebody waits for.
    wanted: u64,
    running: bool,
}

impl Default for Flush {
    fn default() -> Self {
        Self::new(rustix::fs::sync)
    }
}

impl Flush {
    fn new(work: fn()) -> Self {
        Self { progress: Arc::default(), finished: Arc::new(watch::Sender::new(0)), work }
    }

    /// Waits until all that is written by now is on the disks. What is begun goes on when nobody waits for it any more.
    pub(crate) async fn everything(&self) {
        let number = self.ask();
        let mut finished = self.finished.subscribe();
        // The sender is ours.
        let _ = finished.wait_for(|finished| *finished >= number).await;
    }

    /// Returns the number of the next one to begin: one that is running may have passed what the caller wrote.
    fn ask(&self) -> u64 {
        self.with_progress(|progress| {
            progress.wanted = progress.begun + 1;
            if !std::mem::replace(&mut progress.running, true) {
                let all = self.clone();
                tokio::spawn(async move { all.run().await });
            }
            progress.wanted
        })
    }

    async fn run(&self) {
        while let Some(number) = self.begin() {
            blocking(self.work).await;
            self.finished.send_replace(number);
        }
    }

    fn begin(&self) -> Option<u64> {
        self.with_progress(|progress| {
            progress.running = progress.wanted > progress.begun;
            progress.begun = progress.wanted;
            progress.running.then_some(progress.begun)
        })
    }

    /// The numbers are right between any two statements, so those behind a poisoned lock are, too.
    fn with_progress<T>(&self, change: impl FnOnce(&mut Progress) -> T) -> T {
        change(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_meanwhile_share_the_next_one() {
        static BEGUN: AtomicU64 = AtomicU64::new(0);
        static ALLOWED: AtomicU64 = AtomicU64::new(0);
        fn work() {
            let number = BEGUN.fetch_add(1, Ordering::SeqCst) + 1;
            while ALLOWED.load(Ordering::SeqCst) < number {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let flush = Flush::new(work);
        let ask = || {
            let flush = flush.clone();
            tokio::spawn(async move { flush.everything().await })
        };
        let first = ask();
        while BEGUN.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..50).map(|_| ask()).collect();
        tokio::task::yield_now().await;
        // One of those who wait goes away, which changes nothing for the others.
        others[0].abort();
        ALLOWED.store(1, Ordering::SeqCst);
        first.await.unwrap();
        assert!(others[1..].iter().all(|other| !other.is_finished()));
        ALLOWED.store(2, Ordering::SeqCst);
        for other in others.into_iter().skip(1) {
            other.await.unwrap();
        }
        assert_eq!(BEGUN.load(Ordering::SeqCst), 2);
        // And later ones get one of their own.
        ALLOWED.store(3, Ordering::SeqCst);
        ask().await.unwrap();
        assert_eq!(BEGUN.load(Ordering::SeqCst), 3);
    }
}
