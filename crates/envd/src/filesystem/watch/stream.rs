//! The changes of a directory as a stream of messages.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::ConnectError;
use envd_proto::filesystem::__buffa::oneof::watch_dir_response::Event as Message;
use envd_proto::filesystem::WatchDirResponse;
use futures_util::Stream;
use futures_util::stream;
use http::HeaderMap;
use tokio::time::{Interval, MissedTickBehavior};

use super::event::Event;
use super::watcher::Watcher;

/// Sets how often an idle stream shows that it is alive, in seconds.
const KEEPALIVE_HEADER: &str = "keepalive-ping-interval";
const DEFAULT_KEEPALIVE: u64 = 90;
/// Longest interval that makes sense; the clock of the runtime has its limits, too.
const MAX_KEEPALIVE: u64 = 24 * 60 * 60;

struct State {
    watcher: Arc<Watcher>,
    pending: VecDeque<Event>,
    keepalive: Interval,
    started: bool,
    failed: bool,
}

/// Says that the watch is in place, then every change, and a sign of life when nothing happens. Ends with the error that
/// ends the watch. Dropping it ends the watch.
pub(crate) fn stream(
    watcher: Watcher,
    headers: &HeaderMap,
) -> impl Stream<Item = Result<WatchDirResponse, ConnectError>> + Send + use<> {
    let period = Duration::from_secs(keepalive_seconds(headers));
    let mut keepalive = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    // After a pause of the whole machine, one sign of life is enough.
    keepalive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = State {
        watcher: Arc::new(watcher),
        pending: VecDeque::new(),
        keepalive,
        started: false,
        failed: false,
    };
    stream::unfold(state, next)
}

async fn next(mut state: State) -> Option<(Result<WatchDirResponse, ConnectError>, State)> {
    if state.failed {
        return None;
    }
    if !state.started {
        state.started = true;
        return Some((Ok(message(Message::Start(Box::default()))), state));
    }
    if state.pending.is_empty() {
        tokio::select! {
            biased;
            events = state.watcher.next() => match events {
                Ok(events) => state.pending = events,
                Err(error) => {
                    state.failed = true;
                    return Some((Err(error.into()), state));
                }
            },
            _ = state.keepalive.tick() => {
                return Some((Ok(message(Message::Keepalive(Box::default()))), state));
            }
        }
    }
    let event = state.pending.pop_front()?;
    state.keepalive.reset();
    Some((Ok(message(Message::Filesystem(Box::new(event.into())))), state))
}

fn message(event: Message) -> WatchDirResponse {
    WatchDirResponse { event: Some(event) }
}

/// What the client asked for, within reason; the default when it did not ask or made no sense.
fn keepalive_seconds(headers: &HeaderMap) -> u64 {
    headers
        .get(KEEPALIVE_HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<i64>().ok())
        .map_or(DEFAULT_KEEPALIVE, |seconds| u64::try_from(seconds).unwrap_or(0).clamp(1, MAX_KEEPALIVE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_within_reason() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(KEEPALIVE_HEADER, text.parse().unwrap());
            keepalive_seconds(&headers)
        };
        assert_eq!(keepalive_seconds(&HeaderMap::new()), 90);
        assert_eq!((of("50"), of("0"), of("-7"), of("soon"), of("9999999999")), (50, 1, 1, 90, 86_400));
    }
}
