//! A connection that the host asked to be led on to a port of this machine.

use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use crate::ports;

/// Bytes in each direction. Small, since they are part of a snapshot, and connections may be many.
const BUFFER: usize = 16 << 10;

/// What becomes of one connection's `CONNECT`: nothing, or that it is a tunnel when HTTP on it is over.
pub(super) struct Tunnels {
    from_host: bool,
    opened: Mutex<Option<(OnUpgrade, TcpStream)>>,
}

impl Tunnels {
    /// For a connection from the host or from somebody else, who gets none.
    pub(super) fn of(from_host: bool) -> Self {
        Self { from_host, opened: Mutex::new(None) }
    }

    /// Answers a `CONNECT`. After a success, HTTP on this connection ends and [`Self::run`] goes on with it.
    pub(super) async fn open(&self, mut request: Request<Incoming>) -> Response {
        match ports::connect(request.uri(), self.from_host).await {
            Ok(stream) => {
                let tunnel = (hyper::upgrade::on(&mut request), stream);
                *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
                Response::new(Body::empty())
            }
            Err(error) => {
                let mut response = error.into_response();
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
        }
    }

    /// Copies both ways, to be called when HTTP is over. When one side is done sending, the other is told and may go on.
    /// Ends when both are done or one breaks, or at once if there is no tunnel.
    pub(super) async fn run(&self) {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It fails when the answer could not be sent.
        if let Some((host, mut port)) = opened
            && let Ok(host) = host.await
        {
            let mut host = TokioIo::new(host);
            // Whose side an error is on does not matter: both are closed.
            let _ = copy_bidirectional_with_sizes(&mut host, &mut port, BUFFER, BUFFER).await;
        }
    }
}
