//! The service `process.Process`: programs and what goes in and out of them.
//!
//! ```text
//!  Start ──> launch ──> sys::spawn ──> child ──┐ stdout, stderr or terminal
//!              │                               v
//!              └─> supervise: one pump per output ──> hub ──> queue per subscriber ──> stream of a Start or Connect
//!                     │                          └──> log lines (bounded, dropped first)
//!                     └─> waits for the end, then tells: registry (keeps the exit for a while), hub (ends the streams)
//! ```
//!
//! **Who waits for whom.** Output is read only as fast as it is passed on, so a client that reads everything gets
//! everything, however much it is, and a child that prints faster than its clients read waits in the kernel, as at any
//! pipe. A client that reads *nothing* must not hold the child for ever: after 30 s without progress (5 s when others
//! follow the same process) it is dropped, its stream ends with `aborted`, and the child goes on. Without subscribers
//! output is read and thrown away. No queue holds more than a fixed number of pieces, and a piece is what one read of a
//! pipe gives.
//!
//! **When it ends.** The end event comes after the process has ended *and* all its output is at its end, which a
//! grandchild that keeps the pipe open can delay; once somebody has sent a signal, or the timeout has, the end of the
//! process alone is enough, and what is left in the pipes is still delivered. The order is: the process is reaped,
//! forgotten by the registry, then subscribers hear of it. So whoever saw the end does not find it in a list.
//!
//! **Input.** Pieces are written in the order of arrival, each by a task of its own: a client that goes away does not
//! leave half a piece.

mod buffer;
mod event;
mod exit;
mod hub;
mod input;
mod launch;
mod output;
mod registry;
mod running;
mod selector;
mod service;
mod starters;
mod stream;
mod supervise;
mod terminal;

use std::sync::Arc;

use axum::Router;
use envd_proto::process::ProcessExt as _;

use crate::connect;
use crate::state::Envd;

pub(crate) use buffer::release as release_buffers;

/// The routes of the service.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    connect::mount(Arc::new(service::Service::new(state)).register(connectrpc::Router::new()))
}
