//! The HTTP server: HTTP/1.1 on one port, on all addresses.

mod activity;
mod listener;
mod moments;
pub(crate) mod routes;
mod tunnel;

use std::io;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Options;
use crate::push;
use crate::state::Envd;

pub(crate) use self::listener::Peer;
pub(crate) use self::moments::Moments;

/// How many files the daemon may have open: a connection and up to four pipes for each of many processes at once.
const OPEN_FILES: u64 = 65_536;

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
    sys::heap::share_between_threads();
    allow_many_files();
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
            () = listener::serve(listener, routes, envd) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    })
}

/// Best effort: with fewer files, connections wait.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= OPEN_FILES);
    if !enough(limit.current) {
        let maximum = if enough(limit.maximum) { limit.maximum } else { Some(OPEN_FILES) };
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(OPEN_FILES), maximum });
    }
}
