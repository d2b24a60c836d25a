//! Passes the output of one process on to everybody who follows it.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, timeout_at};

use super::event::Chunk;
use super::exit::Exit;

/// Pieces of output that wait for one subscriber. With pieces of 64 KiB this is 1 MiB, enough to keep a connection
/// busy while the child is scheduled again.
const QUEUE_LENGTH: usize = 16;
/// How long a subscriber may take nothing at all while its queue is full, before it is dropped.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// The same when others follow the process as well, whom it would hold up.
const STALL_LIMIT_WITH_OTHERS: Duration = Duration::from_secs(5);

/// The subscribers of one process.
#[derive(Debug, Default)]
pub(super) struct Hub {
    subscribers: Mutex<Vec<Subscriber>>,
    exit: Arc<OnceLock<Exit>>,
}

#[derive(Debug, Clone)]
struct Subscriber {
    queue: mpsc::Sender<Chunk>,
    dropped: Arc<OnceLock<()>>,
}

/// The receiving side of a subscriber.
#[derive(Debug)]
pub(super) struct Subscription {
    queue: mpsc::Receiver<Chunk>,
    dropped: Arc<OnceLock<()>>,
    exit: Arc<OnceLock<Exit>>,
}

/// What a subscription says next.
#[derive(Debug)]
pub(super) enum Next {
    /// Output.
    Chunk(Chunk),
    /// The process has ended, and there is no more output.
    Exit(Exit),
    /// This subscriber was dropped because it took nothing for too long.
    Dropped,
    /// The process is no longer being watched; it was lost.
    Lost,
}

impl Hub {
    /// Follows the process from now on. When it has ended already, the subscription says so at once.
    pub(super) fn subscribe(&self) -> Subscription {
        let (sender, queue) = mpsc::channel(QUEUE_LENGTH);
        let dropped = Arc::default();
        let mut subscribers = self.lock();
        if self.exit.get().is_none() {
            subscribers.push(Subscriber { queue: sender, dropped: Arc::clone(&dropped) });
        }
        Subscription { queue, dropped, exit: Arc::clone(&self.exit) }
    }

    /// Passes a piece of output on, and waits for those whose queue is full, within limits.
    pub(super) async fn publish(&self, chunk: Chunk) {
        let (full, limit) = self.offer(&chunk);
        if full.is_empty() {
            return;
        }
        let deadline = Instant::now() + limit;
        for subscriber in full {
            match timeout_at(deadline, subscriber.queue.reserve()).await {
                Ok(Ok(room)) => room.send(chunk.clone()),
                Ok(Err(_closed)) => self.remove(&subscriber),
                Err(_elapsed) => {
                    let _ = subscriber.dropped.set(());
                    self.remove(&subscriber);
                }
            }
        }
    }

    /// Passes a piece on to all who have room. Tells who has none, and how long to wait for them.
    fn offer(&self, chunk: &Chunk) -> (Vec<Subscriber>, Duration) {
        let mut full = Vec::new();
        let mut subscribers = self.lock();
        subscribers.retain(|subscriber| match subscriber.queue.try_send(chunk.clone()) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                full.push(subscriber.clone());
                true
            }
            Err(TrySendError::Closed(_)) => false,
        });
        (full, if subscribers.len() > 1 { STALL_LIMIT_WITH_OTHERS } else { STALL_LIMIT })
    }

    /// Ends all subscriptions, after what is in their queues, and all that come later.
    pub(super) fn finish(&self, exit: Exit) {
        let mut subscribers = self.lock();
        let _ = self.exit.set(exit);
        subscribers.clear();
    }

    fn remove(&self, subscriber: &Subscriber) {
        self.lock().retain(|known| !known.queue.same_channel(&subscriber.queue));
    }

    /// A list is whole between any two statements, so one behind a poisoned lock is, too.
    fn lock(&self) -> MutexGuard<'_, Vec<Subscriber>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// What comes next.
    pub(super) fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Next> {
        self.queue.poll_recv(context).map(|chunk| match chunk {
            Some(chunk) => Next::Chunk(chunk),
            None if self.dropped.get().is_some() => Next::Dropped,
            None => self.exit.get().map_or(Next::Lost, |exit| Next::Exit(*exit)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;

    use super::super::event::Source;
    use super::*;

    fn chunk(number: usize) -> Chunk {
        Chunk { source: Source::Stdout, data: Bytes::from(number.to_string()) }
    }

    async fn next(subscription: &mut Subscription) -> String {
        match poll_fn(|context| subscription.poll_next(context)).await {
            Next::Chunk(chunk) => String::from_utf8(chunk.data.to_vec()).unwrap(),
            Next::Exit(exit) => exit.status(),
            other => format!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn everybody_hears_everything_and_then_the_end() {
        let hub = Hub::default();
        hub.publish(chunk(0)).await;
        let mut first = hub.subscribe();
        hub.publish(chunk(1)).await;
        let mut second = hub.subscribe();
        hub.publish(chunk(2)).await;
        hub.finish(Exit::Code(0));
        let mut late = hub.subscribe();
        for expected in ["1", "2", "exit status 0"] {
            assert_eq!(next(&mut first).await, expected);
        }
        for expected in ["2", "exit status 0"] {
            assert_eq!(next(&mut second).await, expected);
        }
        assert_eq!(next(&mut late).await, "exit status 0");
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_takes_nothing_is_dropped_and_the_others_lose_nothing() {
        let hub = Arc::new(Hub::default());
        let mut stalled = hub.subscribe();
        let mut reader = hub.subscribe();
        let count = 3 * QUEUE_LENGTH;
        let begin = Instant::now();
        let publisher = tokio::spawn({
            let hub = Arc::clone(&hub);
            async move {
                for number in 0..count {
                    hub.publish(chunk(number)).await;
                }
                hub.finish(Exit::Code(0));
            }
        });
        for number in 0..count {
            assert_eq!(next(&mut reader).await, number.to_string());
        }
        assert_eq!(next(&mut reader).await, "exit status 0");
        publisher.await.unwrap();
        assert!(begin.elapsed() < STALL_LIMIT_WITH_OTHERS + Duration::from_secs(1), "{:?}", begin.elapsed());
        for number in 0..QUEUE_LENGTH {
            assert_eq!(next(&mut stalled).await, number.to_string());
        }
        assert_eq!(next(&mut stalled).await, "Dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_alone_loses_nothing() {
        let hub = Arc::new(Hub::default());
        let mut reader = hub.subscribe();
        let publisher = tokio::spawn({
            let hub = Arc::clone(&hub);
            async move {
                for number in 0..2 * QUEUE_LENGTH {
                    hub.publish(chunk(number)).await;
                }
                hub.finish(Exit::Code(0));
            }
        });
        for number in 0..2 * QUEUE_LENGTH {
            tokio::time::sleep(STALL_LIMIT - Duration::from_secs(1)).await;
            assert_eq!(next(&mut reader).await, number.to_string());
        }
        assert_eq!(next(&mut reader).await, "exit status 0");
        publisher.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_went_away_holds_up_nobody() {
        let hub = Hub::default();
        let gone = hub.subscribe();
        for number in 0..QUEUE_LENGTH {
            hub.publish(chunk(number)).await;
        }
        let begin = Instant::now();
        tokio::join!(hub.publish(chunk(0)), async { drop(gone) });
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert!(hub.lock().is_empty());
    }
}
