//! The service `filesystem.Filesystem`, and what it shares with `/files`.
//!
//! Everything is done as root on behalf of a user, who decides where relative paths lead and whom new files belong to.

mod blocking;
mod change;
mod ensure;
mod entry;
mod error;
mod legacy;
mod list;
mod message;
mod metadata;
mod names;
mod owner;
mod permissions;
mod service;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn;
use envd_proto::filesystem::FilesystemExt as _;

use crate::connect;
use crate::state::Envd;

pub(crate) use blocking::blocking;
pub(crate) use ensure::ensure_dirs;
pub(crate) use metadata::replace as replace_metadata;
pub(crate) use owner::Owner;

/// The routes of the service.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    connect::mount(Arc::new(service::Service::new(state)).register(connectrpc::Router::new()))
        .layer(from_fn(legacy::mark))
}
