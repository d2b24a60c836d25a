//! Whether a connection is being used.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

/// What is known of a connection.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Requests whose answers are not at their end.
    busy: usize,
    /// When that last changed.
    since: Instant,
}

impl Activity {
    /// A connection that was just made.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { busy: 0, since: Instant::now() })))
    }

    /// A request, for as long as this lives.
    pub(super) fn begin(&self) -> Busy {
        self.change(|busy| busy + 1);
        Busy(self.clone())
    }

    /// Whether there has been no request for so long.
    pub(super) fn is_idle(&self, time: Duration) -> bool {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy == 0 && state.since.elapsed() >= time
    }

    fn change(&self, change: impl FnOnce(usize) -> usize) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = State { busy: change(state.busy), since: Instant::now() };
    }
}

/// A request and its answer.
#[derive(Debug)]
pub(super) struct Busy(Activity);

impl Busy {
    /// The body of the answer, after which the request is over.
    pub(super) fn until_the_end_of(self, body: Body) -> Tracked {
        Tracked { body, _busy: self }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.change(|busy| busy.saturating_sub(1));
    }
}

/// A body that keeps its connection busy.
#[derive(Debug)]
pub(super) struct Tracked {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
