//! The real router on a real catalog; only the sandboxes are records in memory.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod bad_input;
mod client;
mod clients_that_leave;
mod create;
mod fleet;
mod fork;
mod lifetime;
mod list;
mod load;
mod observe;
mod pause;
mod scene;
mod snapshots;
mod wake;
