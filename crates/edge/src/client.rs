//! One connection of a client, from accept to close.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use upload::Upload;

use crate::answer::{Answer, BodyError, UnderWay};
use crate::config::{
    CONNECTION_WINDOW, H2_PING_INTERVAL, H2_PING_TIMEOUT, MAX_HEADER_BYTES, MAX_RESET_STREAMS, MAX_STREAMS,
    STREAM_SEND_BUFFER, STREAM_WINDOW, Timeouts,
};
use crate::edge::Edge;
use crate::meter::{Meter, Metered};
use crate::socket;

/// The limits on an idle connection are checked so many times within the shorter one.
const PARTS: u32 = 6;

/// The address of a request's client, in the extensions of every request that goes to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// A service that the API can be: an axum router, for one.
pub trait Api<B>:
    Service<Request<Upload>, Response = Response<B>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<B, S> Api<B> for S where
    S: Service<Request<Upload>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What is known of a client's connection while it is served.
#[derive(Debug)]
pub(crate) struct Client {
    addr: SocketAddr,
    meter: Arc<Meter>,
    under_way: Arc<AtomicUsize>,
    requests: AtomicU64,
    is_http2: AtomicBool,
    _place: OwnedSemaphorePermit,
}

impl Client {
    /// Where the client is.
    pub(crate) fn ip(&self) -> IpAddr {
        self.addr.ip()
    }
}

/// When a connection must close.
pub(crate) struct Closing {
    /// As soon as what is under way is done.
    pub(crate) graceful: CancellationToken,
    /// At once.
    pub(crate) now: CancellationToken,
    /// Whether connections are scarce, so that idle ones go early.
    pub(crate) scarce: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// How connections speak HTTP.
pub(crate) fn protocol() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The time limit on headers is ours: hyper's would also close a connection that rests between two requests.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEADER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESET_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_SEND_BUFFER)
        .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    builder
}

/// Serves one connection until it closes or must. `place` is its place among the connections; a tunnel that it
/// became keeps it.
pub(crate) async fn serve_connection<S, B>(
    stream: TcpStream,
    addr: SocketAddr,
    place: OwnedSemaphorePermit,
    protocol: &auto::Builder<TokioExecutor>,
    edge: Edge,
    api: S,
    closing: Closing,
) where
    S: Api<B>,
    B: Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
{
    socket::tune(&stream);
    let client = Arc::new(Client {
        addr,
        meter: Arc::default(),
        under_way: Arc::default(),
        requests: AtomicU64::new(0),
        is_http2: AtomicBool::new(false),
        _place: place,
    });
    let limits = edge.config().timeouts.clone();
    let service = service_fn(|request| {
        // Before anything is refused.
        let request = Upload::of(request);
        client.requests.fetch_add(1, Ordering::Relaxed);
        client.is_http2.store(request.version() == Version::HTTP_2, Ordering::Relaxed);
        answer(edge.clone(), api.clone(), Arc::clone(&client), request)
    });
    let io = Metered::new(stream, Arc::clone(&client.meter));
    let mut connection = pin!(protocol.serve_connection_with_upgrades(io, service));
    let mut patience = Patience::new(&client, &limits);
    let mut graceful = pin!(closing.graceful.cancelled());
    let mut now = pin!(closing.now.cancelled());
    let mut leaving = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                if let Err(error) = result {
                    tracing::debug!(client = %addr, error = %error, "a client's connection broke");
                }
                return Poll::Ready(());
            }
            if now.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let verdict = if !leaving && graceful.as_mut().poll(cx).is_ready() {
                Verdict::Leave
            } else {
                match patience.poll(cx, &*closing.scarce) {
                    Poll::Ready(verdict) => verdict,
                    Poll::Pending => return Poll::Pending,
                }
            };
            match verdict {
                Verdict::Leave if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                Verdict::Leave | Verdict::Cut => return Poll::Ready(()),
            }
        }
    })
    .await;
}

async fn answer<S, B>(
    edge: Edge,
    mut api: S,
    client: Arc<Client>,
    request: Request<Upload>,
) -> Result<Response<Answer<B>>, Infallible>
where
    S: Api<B>,
{
    let under_way = UnderWay::new(&client.under_way);
    match edge.handle(request, &client).await {
        Ok(response) => Ok(response.map(|body| Answer::from_edge(body, under_way))),
        Err(mut request) => {
            request.extensions_mut().insert(PeerAddr(client.addr));
            poll_fn(|cx| api.poll_ready(cx)).await?;
            let response = api.call(request).await?;
            Ok(response.map(|body| Answer::from_api(body, under_way)))
        }
    }
}

/// What to do with a connection that does nothing useful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Finish and close. Said twice, close.
    Leave,
    /// Close.
    Cut,
}

/// Limits how long a connection may rest between requests, and how long a request's header may take to arrive. It
/// looks every few seconds, which costs less than a timer per request.
struct Patience<'a> {
    client: &'a Client,
    limits: &'a Timeouts,
    ticks: tokio::time::Interval,
    tick: Duration,
    requests: u64,
    reads: u64,
    /// How long no request has been under way.
    idle: Duration,
    /// How long a header has been arriving, if one is.
    header: Option<Duration>,
}

impl<'a> Patience<'a> {
    fn new(client: &'a Client, limits: &'a Timeouts) -> Self {
        let tick = (limits.header.min(limits.client_idle) / PARTS).max(Duration::from_millis(1));
        let mut ticks = interval_at(Instant::now() + tick, tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first header is due from the start.
        Self {
            client,
            limits,
            ticks,
            tick,
            requests: 0,
            reads: 0,
            idle: Duration::ZERO,
            header: Some(Duration::ZERO),
        }
    }

    fn poll(&mut self, cx: &mut std::task::Context<'_>, scarce: &dyn Fn() -> bool) -> Poll<Verdict> {
        while self.ticks.poll_tick(cx).is_ready() {
            if let Some(verdict) = self.look(scarce) {
                return Poll::Ready(verdict);
            }
        }
        Poll::Pending
    }

    fn look(&mut self, scarce: &dyn Fn() -> bool) -> Option<Verdict> {
        let requests = self.client.requests.load(Ordering::Relaxed);
        let reads = self.client.meter.reads();
        let arrived = reads != std::mem::replace(&mut self.reads, reads);
        if requests != std::mem::replace(&mut self.requests, requests)
            || self.client.under_way.load(Ordering::Relaxed) > 0
        {
            self.idle = Duration::ZERO;
            self.header = None;
            return None;
        }
        self.idle += self.tick;
        // On HTTP/2 what arrives between requests are answers to pings.
        if self.header.is_none() && arrived && !self.client.is_http2.load(Ordering::Relaxed) {
            self.header = Some(Duration::ZERO);
        }
        if let Some(header) = &mut self.header {
            *header += self.tick;
            if *header >= self.limits.header {
                tracing::debug!(client = %self.client.addr, "closing a connection: its header took too long");
                return Some(Verdict::Cut);
            }
        }
        let limit = if scarce() { self.limits.header } else { self.limits.client_idle };
        (self.idle >= limit).then_some(Verdict::Leave)
    }
}
