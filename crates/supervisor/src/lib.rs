//! One process, one sandbox.
//!
//! A supervisor owns the VMM, the guest's memory, its disk, its tap and its log of exactly one sandbox, lives in that
//! sandbox's network namespace, and outlives the server that started it. When it dies, its VMM dies with it; when its
//! VMM dies, it says so and exits. See [`lifecycle`] for the states.
#![forbid(unsafe_code)]

mod bring_up;
mod checkpoint;
mod console;
mod control_server;
mod debug;
mod endpoint;
mod guest;
mod http1;
pub mod lifecycle;
mod log_store;
mod machine;
mod metrics;
mod origin;
mod paging;
mod pause;
mod run;
mod snapshot;
mod standby;
mod tasks;

pub use run::{SupervisorError, run};

/// As a log says it.
fn millis(time: std::time::Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
