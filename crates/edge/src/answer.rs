//! The body of an answer, wherever it comes from.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::link::Wire;

/// Why a body broke off.
pub type BodyError = Box<dyn Error + Send + Sync>;

/// A body from the edge itself, from a guest or from the API (`A`).
pub(crate) struct Answer<A> {
    source: Source<A>,
    _under_way: UnderWay,
}

enum Source<A> {
    Edge(Bytes),
    Guest(GuestBody),
    Api(A),
}

/// What the data plane answers with.
pub(crate) enum EdgeBody {
    /// Something the edge says itself.
    Text(Bytes),
    /// Something a guest says.
    Guest(GuestBody),
}

impl<A> Answer<A> {
    pub(crate) fn from_edge(body: EdgeBody, under_way: UnderWay) -> Self {
        let source = match body {
            EdgeBody::Text(text) => Source::Edge(text),
            EdgeBody::Guest(body) => Source::Guest(body),
        };
        Self { source, _under_way: under_way }
    }

    pub(crate) fn from_api(body: A, under_way: UnderWay) -> Self {
        Self { source: Source::Api(body), _under_way: under_way }
    }
}

impl<A> Body for Answer<A>
where
    A: Body<Data = Bytes> + Unpin,
    A::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.source {
            Source::Edge(text) if text.is_empty() => Poll::Ready(None),
            Source::Edge(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Source::Guest(body) => body.poll_frame(cx).map_err(Into::into),
            Source::Api(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Edge(text) => text.is_empty(),
            Source::Guest(body) => body.incoming.is_end_stream(),
            Source::Api(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Edge(text) => SizeHint::with_exact(u64::try_from(text.len()).unwrap_or(u64::MAX)),
            Source::Guest(body) => body.incoming.size_hint(),
            Source::Api(body) => body.size_hint(),
        }
    }
}

/// A guest's answer, and the connection it arrives on. Dropping it before its end closes that connection.
pub(crate) struct GuestBody {
    incoming: Incoming,
    wire: Arc<Wire>,
}

impl GuestBody {
    pub(crate) fn new(incoming: Incoming, wire: Arc<Wire>) -> Self {
        Self { incoming, wire }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.incoming).poll_frame(cx);
        if let Poll::Ready(None) = frame {
            self.wire.park_if_over();
        }
        frame
    }
}

impl Drop for GuestBody {
    fn drop(&mut self) {
        self.wire.park_if_over();
    }
}

/// One request that is being answered, in the count of its client's connection.
pub(crate) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
