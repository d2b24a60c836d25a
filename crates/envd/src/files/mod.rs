//! `GET /files` and `POST /files`: contents of files, both ways; `POST /files/compose`: several files become one.
//!
//! ```text
//! request -> access: token or signature, user, path -+-> download: open -> contents (-> gzip) -> body
//!                                                     +-> upload: body -> source (gzip ->) (-> form) -> store -> target
//!
//! compose: token, user, paths -> concat: sources -> temporary file -> destination
//! ```
//!
//! Reading and writing is done on the blocking pool in pieces of some hundred kilobytes, one ahead of the socket; nobody
//! who is slow holds a thread. Absolute paths are taken as they are: this daemon is root in a machine of its own, and
//! its client is whom the machine belongs to.

mod access;
mod compose;
mod concat;
mod condition;
mod content_type;
mod contents;
mod date;
mod disposition;
mod download;
mod encoding;
mod form;
pub(crate) mod fuzzing;
mod memory;
mod metadata;
mod open;
mod range;
mod sample;
mod signature;
mod source;
mod store;
mod target;
mod upload;
mod written;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::state::Envd;

/// The routes.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    memory::prepare();
    Router::new()
        .route("/files", get(download::download).post(upload::upload))
        .route("/files/compose", post(compose::compose))
        .with_state(state)
}
