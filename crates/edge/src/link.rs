//! One HTTP/1.1 connection to a port of a guest.
//!
//! ```text
//!   connect ──> busy ──────── response head ──────> answering ── both bodies done ──> parked in the pool ──┐
//!                ^                                      │                                                  │
//!                │                                  broken, ended, too slow: closed                        │
//!                └────────────────────────────────── next request ─────────────────────────────────────────┘
//! ```
//!
//! A task drives the connection. The sending half travels: it is with the request until the response's head is there,
//! then waits in the [`Wire`], and whoever first notices that the exchange is over, the driver or the response's body,
//! puts it into the pool. It is not put back any earlier, because a half that was just given a request may still look
//! ready for another one.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use model::GuestPort;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use upload::Upload;

use crate::config::{MAX_HEADER_BYTES, Timeouts};
use crate::guest::Guest;
use crate::meter::{Meter, Metered};
use crate::socket;
use crate::watch::{Progress, Watch};

/// What is known of a connection by everybody who holds a part of it.
pub(crate) struct Wire {
    guest: Weak<Guest>,
    port: GuestPort,
    meter: Arc<Meter>,
    /// Odd while an exchange is under way; each one has its own number.
    exchange: AtomicU64,
    /// The sending half between the head of a response and the end of the exchange.
    waiting: Mutex<Option<SendRequest<Upload>>>,
    ended: CancellationToken,
    _counted: Counted,
}

impl Wire {
    /// Cancelled when the sandbox ended.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// What moves on the connection while an exchange is under way.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let exchange = self.exchange.load(Ordering::Relaxed);
        (exchange % 2 == 1).then(|| Progress { exchange, moved: self.meter.operations() })
    }

    /// Puts the connection into the pool if its exchange is over.
    pub(crate) fn park_if_over(self: &Arc<Self>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = waiting.take_if(|sender| sender.is_ready() || sender.is_closed()) else { return };
        drop(waiting);
        let finished = sender.is_closed() || self.meter.is_broken();
        if let (false, Some(guest)) = (finished, self.guest.upgrade()) {
            self.exchange.fetch_add(1, Ordering::Relaxed);
            guest.park(self.port, Link { sender, wire: Arc::clone(self) });
        }
    }
}

/// The right to send one request on a connection.
pub(crate) struct Link {
    sender: SendRequest<Upload>,
    wire: Arc<Wire>,
}

impl Link {
    /// Speaks HTTP/1.1 on a fresh connection.
    pub(crate) async fn open(
        stream: TcpStream,
        guest: &Arc<Guest>,
        port: GuestPort,
        limits: &Timeouts,
    ) -> hyper::Result<Self> {
        socket::tune(&stream);
        let meter = Arc::new(Meter::default());
        let io = Metered::reading_tells(stream, Arc::clone(&meter));
        let (sender, connection) =
            http1::Builder::new().max_buf_size(MAX_HEADER_BYTES).handshake::<_, Upload>(io).await?;
        let wire = Arc::new(Wire {
            guest: Arc::downgrade(guest),
            port,
            meter,
            exchange: AtomicU64::new(0),
            waiting: Mutex::new(None),
            ended: guest.ended().clone(),
            _counted: Counted::new(guest.wires()),
        });
        let watch = Watch::new(limits.exchange_idle, limits.exchange_total);
        tokio::spawn(drive(connection, Arc::clone(&wire), watch));
        Ok(Self { sender, wire })
    }

    /// Whether the connection can take a request.
    pub(crate) fn is_usable(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request and waits for the head of the response. The error holds the request if nothing of it was sent.
    pub(crate) async fn send(
        mut self,
        request: Request<Upload>,
    ) -> Result<(Response<Incoming>, Arc<Wire>), Box<TrySendError<Request<Upload>>>> {
        self.wire.exchange.fetch_add(1, Ordering::Relaxed);
        let response = self.sender.try_send_request(request).await?;
        *self.wire.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.sender);
        self.wire.park_if_over();
        Ok((response, self.wire))
    }
}

/// Runs a connection until it closes, its sandbox ends or its exchange exceeds a limit. Dropping it breaks off what is
/// under way: the client sees an error, never a short success.
async fn drive(connection: http1::Connection<Metered, Upload>, wire: Arc<Wire>, mut watch: Watch) {
    let mut connection = pin!(connection.with_upgrades());
    let mut ended = pin!(wire.ended.cancelled());
    poll_fn(|cx| {
        if let std::task::Poll::Ready(result) = connection.as_mut().poll(cx) {
            if let Err(error) = result {
                tracing::debug!(port = %wire.port, %error, "a connection to a guest broke");
            }
            return std::task::Poll::Ready(());
        }
        wire.park_if_over();
        if ended.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        watch.poll_exceeded(cx, || wire.progress()).map(|why| {
            tracing::info!(port = %wire.port, "closing a connection to a guest: {why}");
        })
    })
    .await;
}

/// One more in a count, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
