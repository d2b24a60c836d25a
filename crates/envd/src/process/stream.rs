//! The stream of a Start or Connect.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use connectrpc::ConnectError;
use futures_util::Stream;
use http::HeaderMap;
use tokio::time::{Instant, Sleep};

use super::event::Event;
use super::hub::{Next, Subscription};

/// Sets how often an idle stream shows that it is alive, in seconds.
const KEEPALIVE_HEADER: &str = "keepalive-ping-interval";
const DEFAULT_KEEPALIVE_SECONDS: u64 = 90;
/// Longer makes no sense, and the clock of the runtime has its limits, too.
const MAX_KEEPALIVE_SECONDS: u64 = 24 * 60 * 60;

/// Says that the process runs, then all that happens to it. Dropping it ends the subscription, not the process.
pub(super) struct EventStream {
    pid: u32,
    subscription: Subscription,
    keepalive: Keepalive,
    deadline: Option<std::time::Instant>,
    position: Position,
}

enum Position {
    Start,
    Middle,
    End,
}

impl EventStream {
    /// The stream for a request with these headers. When it ends after the deadline, it ends with an error.
    pub(super) fn new(
        pid: u32,
        subscription: Subscription,
        headers: &HeaderMap,
        deadline: Option<std::time::Instant>,
    ) -> Self {
        let keepalive = Keepalive::new(keepalive_period(headers));
        Self { pid, subscription, keepalive, deadline, position: Position::Start }
    }

    fn finish(&mut self, result: Result<Event, ConnectError>) -> Poll<Option<Result<Event, ConnectError>>> {
        self.position = Position::End;
        Poll::Ready(Some(result))
    }
}

impl Stream for EventStream {
    type Item = Result<Event, ConnectError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        match this.position {
            Position::Start => {
                this.position = Position::Middle;
                return Poll::Ready(Some(Ok(Event::Start { pid: this.pid })));
            }
            Position::Middle => {}
            Position::End => return Poll::Ready(None),
        }
        match this.subscription.poll_next(context) {
            Poll::Ready(Next::Chunk(chunk)) => {
                this.keepalive.touch();
                Poll::Ready(Some(Ok(Event::Data(chunk))))
            }
            Poll::Ready(Next::Exit(exit)) => {
                // The process was killed because of the deadline, and the client is to hear of that, whichever of the
                // two is noticed first.
                let late = this.deadline.is_some_and(|deadline| deadline <= std::time::Instant::now());
                this.finish(if late {
                    Err(ConnectError::deadline_exceeded("the timeout of the request has passed"))
                } else {
                    Ok(Event::End(exit))
                })
            }
            Poll::Ready(Next::Dropped) => this.finish(Err(ConnectError::aborted(
                "the client did not read the output of the process for too long; the process goes on",
            ))),
            Poll::Ready(Next::Lost) => {
                this.finish(Err(ConnectError::canceled("the process is no longer being watched")))
            }
            Poll::Pending => this.keepalive.poll_due(context).map(|()| Some(Ok(Event::KeepAlive))),
        }
    }
}

/// When to send the next sign of life. Setting a timer for each piece of output would cost more than the output, so the
/// timer runs through and is corrected when it fires.
struct Keepalive {
    period: Duration,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Keepalive {
    fn new(period: Duration) -> Self {
        let last = Instant::now();
        Self { period, last, timer: Box::pin(tokio::time::sleep_until(last + period)) }
    }

    fn touch(&mut self) {
        self.last = Instant::now();
    }

    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            std::task::ready!(self.timer.as_mut().poll(context));
            let now = Instant::now();
            let due = self.last + self.period <= now;
            if due {
                self.last = now;
            }
            self.timer.as_mut().reset(self.last + self.period);
            if due {
                return Poll::Ready(());
            }
        }
    }
}

fn keepalive_period(headers: &HeaderMap) -> Duration {
    let asked = headers.get(KEEPALIVE_HEADER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let seconds = asked.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_KEEPALIVE_SECONDS);
    Duration::from_secs(seconds.min(MAX_KEEPALIVE_SECONDS))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use http::HeaderValue;

    use super::super::event::{Chunk, Source};
    use super::super::exit::Exit;
    use super::super::hub::Hub;
    use super::*;

    #[test]
    fn the_period_is_what_the_client_asks_for_within_reason() {
        for (value, expected) in
            [("50", 50), ("0", 90), ("-1", 90), ("x", 90), ("1", 1), ("99999999999", 86_400)]
        {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(KEEPALIVE_HEADER),
                HeaderValue::from_static(value),
            )]);
            assert_eq!(keepalive_period(&headers), Duration::from_secs(expected), "{value}");
        }
        assert_eq!(keepalive_period(&HeaderMap::new()), Duration::from_secs(90));
    }

    async fn next(stream: &mut EventStream) -> Option<Result<Event, ConnectError>> {
        poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_come_when_nothing_else_does() {
        let hub = Hub::default();
        let mut stream = EventStream::new(1, hub.subscribe(), &HeaderMap::new(), None);
        let begin = Instant::now();
        assert!(matches!(next(&mut stream).await, Some(Ok(Event::Start { pid: 1 }))));
        assert!(matches!(next(&mut stream).await, Some(Ok(Event::KeepAlive))));
        assert_eq!(begin.elapsed().as_secs(), 90);
        tokio::time::advance(Duration::from_secs(60)).await;
        hub.publish(Chunk { source: Source::Stdout, data: Bytes::from_static(b"x") }).await;
        assert!(matches!(next(&mut stream).await, Some(Ok(Event::Data(_)))));
        assert!(matches!(next(&mut stream).await, Some(Ok(Event::KeepAlive))));
        assert_eq!(begin.elapsed().as_secs(), 240);
        hub.finish(Exit::Code(0));
        assert!(matches!(next(&mut stream).await, Some(Ok(Event::End(_)))));
        assert!(next(&mut stream).await.is_none());
    }
}
