//! A request's body on its way to the guest.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::runtime::Handle;

use crate::config::{MAX_DISCARD_TIME, MAX_DISCARDED_BYTES};

/// The body of a client's request. What nobody read of it by the time it is dropped is read and thrown away, within
/// limits: closing the connection on a client that is still sending would reset it, and the answer would be lost.
pub(crate) struct Upload {
    /// `None` for an empty one, and while it is being dropped.
    body: Option<Incoming>,
    /// Whether there is a rest that the client will send, answered or not.
    rest_will_come: bool,
}

impl Upload {
    /// `awaited` says that the client waits for a go-ahead (`Expect: 100-continue`), which reading would give it.
    pub(crate) fn new(body: Incoming, version: Version, awaited: bool) -> Self {
        // On HTTP/2 a stream is closed without harm to what was answered on it.
        let rest_will_come = version < Version::HTTP_2 && !awaited && !body.is_end_stream();
        Self { body: Some(body), rest_will_come }
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        Self { body: None, rest_will_come: false }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let frame = Pin::new(&mut *body).poll_frame(cx);
        // Once read from, the client has its go-ahead.
        this.rest_will_come = match &frame {
            Poll::Ready(None | Some(Err(_))) => false,
            Poll::Ready(Some(Ok(_))) => !body.is_end_stream(),
            Poll::Pending => this.rest_will_come,
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.rest_will_come {
            return;
        }
        if let (Some(body), Ok(runtime)) = (self.body.take(), Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(MAX_DISCARD_TIME, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = MAX_DISCARDED_BYTES;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let length = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
