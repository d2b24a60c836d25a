//! The HTTP server: HTTP/1.1 on one port, on all addresses.

mod listener;
mod routes;

use std::io;
use std::sync::Arc;

use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Options;
use crate::push;
use crate::state::Envd;

/// Why the daemon cannot run.
#[derive(Debug, Error)]
pub(crate) enum ServeError {
    #[error("cannot start the asynchronous runtime: {0}")]
    Runtime(io::Error),
    #[error("cannot listen on port {port}: {error}")]
    Listen { port: u16, error: io::Error },
    #[error("cannot handle signals: {0}")]
    Signals(io::Error),
}

/// Serves until SIGTERM or SIGINT. Processes that were started go on without us.
pub(crate) fn run(options: Options) -> Result<(), ServeError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    runtime.block_on(async {
        let port = options.port;
        let envd = Envd::new(options);
        let listener = listener::bind(port).map_err(|error| ServeError::Listen { port, error })?;
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        if let Ok(address) = listener.local_addr() {
            // Whoever asked for port 0 reads this line.
            eprintln!("envd: listening on port {}", address.port());
        }
        // The listener takes connections from here on, so the host may be told.
        tokio::spawn(push::run(Arc::clone(&envd)));
        let routes = routes::all(&envd);
        tokio::select! {
            () = listener::serve(listener, routes) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}
