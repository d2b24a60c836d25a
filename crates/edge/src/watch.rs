//! The limits on a running exchange: how long it may stand still, and how long it may last.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// The stillness limit is checked so many times within its length; it may be exceeded by one part.
const PARTS: u32 = 4;

/// Looks at a counter now and then, which costs one timer per connection and nothing per byte.
pub(crate) struct Watch {
    timer: Pin<Box<Sleep>>,
    part: Duration,
    total: Duration,
    seen: Option<Progress>,
    still_parts: u32,
    started: Instant,
}

/// What a [`Watch`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Which exchange is running.
    pub(crate) exchange: u64,
    /// A count that grows when bytes move.
    pub(crate) moved: u64,
}

impl Watch {
    pub(crate) fn new(idle: Duration, total: Duration) -> Self {
        let part = (idle.min(total) / PARTS).max(Duration::from_millis(1));
        Self {
            timer: Box::pin(sleep(part)),
            part,
            total,
            seen: None,
            still_parts: 0,
            started: Instant::now(),
        }
    }

    /// Ready when the exchange has stood still or lasted for too long. `progress` is `None` while there is none.
    pub(crate) fn poll_exceeded(
        &mut self,
        cx: &mut Context<'_>,
        progress: impl Fn() -> Option<Progress>,
    ) -> Poll<&'static str> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            self.timer.as_mut().reset(now + self.part);
            let current = progress();
            let same_exchange =
                |seen: Progress| current.is_some_and(|current| current.exchange == seen.exchange);
            if !self.seen.is_some_and(same_exchange) {
                self.started = now;
                self.still_parts = 0;
            } else if self.seen == current {
                self.still_parts += 1;
            } else {
                self.still_parts = 0;
            }
            self.seen = current;
            if self.still_parts >= PARTS {
                return Poll::Ready("no byte moved for too long");
            }
            if current.is_some() && now.duration_since(self.started) >= self.total {
                return Poll::Ready("it lasted for too long");
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use super::*;

    const IDLE: Duration = Duration::from_millis(40);
    const TOTAL: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn a_still_exchange_is_noticed() {
        let mut watch = Watch::new(IDLE, TOTAL);
        let still = Progress { exchange: 1, moved: 7 };
        let why = poll_fn(|cx| watch.poll_exceeded(cx, || Some(still))).await;
        assert_eq!(why, "no byte moved for too long");
    }

    #[tokio::test]
    async fn a_moving_exchange_lasts_until_its_total() {
        let mut watch = Watch::new(IDLE, TOTAL);
        let moved = Cell::new(0);
        let started = Instant::now();
        let moving = || {
            moved.set(moved.get() + 1);
            Some(Progress { exchange: 1, moved: moved.get() })
        };
        let why = poll_fn(|cx| watch.poll_exceeded(cx, moving)).await;
        assert_eq!(why, "it lasted for too long");
        assert!(started.elapsed() >= TOTAL);
    }

    #[tokio::test]
    async fn waiting_for_an_exchange_is_not_one() {
        let mut watch = Watch::new(IDLE, TOTAL);
        let none = poll_fn(|cx| watch.poll_exceeded(cx, || None));
        assert!(tokio::time::timeout(TOTAL * 2, none).await.is_err());
    }
}
