//! `/sandboxes` and what hangs below it.

mod connect;
mod create;
mod cursor;
mod fork;
mod lifetime;
mod list;
mod logs;
mod metadata_filter;
mod metrics;
mod network;
mod one;
mod pause;
mod request;
mod start;

pub(crate) use connect::{connect_v1, connect_v2};
pub(crate) use create::{create_v1, create_v2};
pub(crate) use fork::fork;
pub(crate) use lifetime::{refresh, set_timeout};
pub(crate) use list::{list_v1, list_v2};
pub(crate) use logs::{logs_v1, logs_v2};
pub(crate) use metrics::{metrics, metrics_of_many};
pub(crate) use one::{kill, show};
pub(crate) use pause::{pause, resume};
