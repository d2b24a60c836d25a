//! The accept loop of the one public port.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::BodyError;
use crate::client::{Api, Closing, protocol, serve_connection};
use crate::edge::Edge;

/// How long accepting pauses when the host is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections are scarce when less than one in so many is left.
const SCARCE: usize = 8;

/// Serves one port: requests that name a sandbox go into it, all others to `api`. Speaks HTTP/1.1 and HTTP/2 with
/// prior knowledge, both without TLS.
///
/// When `shutdown` is cancelled, no connection is accepted any more, what is under way gets
/// [`Timeouts::drain`](crate::Timeouts::drain) to end, and then everything is closed. An [`Edge`] is served once.
pub async fn serve<S, B>(listener: TcpListener, edge: Edge, api: S, shutdown: CancellationToken)
where
    S: Api<B>,
    B: Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
{
    let connections = TaskTracker::new();
    let now = CancellationToken::new();
    let sweeper = tokio::spawn(sweep(edge.clone(), now.child_token()));
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(&listener, &edge, &api, &connections, &shutdown, &now) => {}
    }
    drop(listener);
    connections.close();
    let drained = async {
        connections.wait().await;
        edge.drained().await;
    };
    if tokio::time::timeout(edge.config().timeouts.drain, drained).await.is_err() {
        tracing::info!(connections = connections.len(), "closing what is still under way");
    }
    now.cancel();
    edge.end();
    connections.wait().await;
    edge.drained().await;
    if let Err(error) = sweeper.await {
        tracing::error!(%error, "the task that closes idle connections failed");
    }
}

async fn accept<S, B>(
    listener: &TcpListener,
    edge: &Edge,
    api: &S,
    connections: &TaskTracker,
    shutdown: &CancellationToken,
    now: &CancellationToken,
) where
    S: Api<B>,
    B: Body<Data = Bytes, Error: Into<BodyError>> + Send + Unpin + 'static,
{
    let limit = edge.config().max_connections.clamp(1, Semaphore::MAX_PERMITS);
    let places = Arc::new(Semaphore::new(limit));
    let scarce: Arc<dyn Fn() -> bool + Send + Sync> = {
        let places = Arc::clone(&places);
        Arc::new(move || places.available_permits() < limit / SCARCE)
    };
    let protocol = Arc::new(protocol());
    loop {
        // Never closed, so never an error.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let (stream, addr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) if is_about_one_client(&error) => continue,
            Err(error) => {
                tracing::error!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (edge, api, protocol) = (edge.clone(), api.clone(), Arc::clone(&protocol));
        let closing =
            Closing { graceful: shutdown.child_token(), now: now.child_token(), scarce: Arc::clone(&scarce) };
        connections.spawn(async move {
            serve_connection(stream, addr, place, &protocol, edge, api, closing).await;
        });
    }
}

/// The client went away between connecting and being accepted.
fn is_about_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    )
}

/// Closes connections to guests that nobody uses any more.
async fn sweep(edge: Edge, stop: CancellationToken) {
    let idle = edge.config().timeouts.pooled_idle;
    let mut ticks = tokio::time::interval((idle / 2).max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        edge.guests().sweep(edge.sandboxes(), idle);
    }
}
