//! A connection that switched from HTTP to another protocol, usually a websocket.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::config::{TUNNEL_BUFFER, Timeouts};
use crate::link::Wire;
use crate::watch::Watch;

/// What a tunnel connects, as soon as both sides have switched.
pub(crate) struct Sides {
    pub(crate) client_side: OnUpgrade,
    pub(crate) guest_side: OnUpgrade,
    /// The client's connection, for its place among the connections.
    pub(crate) client: Arc<Client>,
    /// The connection to the guest, for its meter and its end.
    pub(crate) wire: Arc<Wire>,
}

/// Copies both ways. When one side is done sending, the other is told and may go on. Ends when both are done, when
/// the sandbox ends, when the server must stop, or at a limit.
pub(crate) async fn run(sides: Sides, stop: CancellationToken, limits: &Timeouts) {
    let mut watch = Watch::new(limits.exchange_idle, limits.exchange_total);
    let Sides { client_side, guest_side, client, wire } = sides;
    let copied = async {
        let (client, guest) = tokio::try_join!(client_side, guest_side).map_err(std::io::Error::other)?;
        let (mut client, mut guest) = (TokioIo::new(client), TokioIo::new(guest));
        copy_bidirectional_with_sizes(&mut client, &mut guest, TUNNEL_BUFFER, TUNNEL_BUFFER).await
    };
    let mut copied = pin!(copied);
    let mut ended = pin!(wire.ended().cancelled());
    let mut stopped = pin!(stop.cancelled());
    poll_fn(|cx| {
        if let Poll::Ready(result) = copied.as_mut().poll(cx) {
            if let Err(error) = result {
                tracing::debug!(%error, "a tunnel broke");
            }
            return Poll::Ready(());
        }
        if ended.as_mut().poll(cx).is_ready() || stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        watch.poll_exceeded(cx, || wire.progress()).map(|why| tracing::info!("closing a tunnel: {why}"))
    })
    .await;
    drop(client);
}
