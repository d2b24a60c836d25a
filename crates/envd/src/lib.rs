//! The daemon inside every sandbox: it starts processes, moves files and tells how the guest is doing.
//!
//! It speaks E2B's protocol (crate `envd-proto` and a few plain HTTP routes) on one port, over HTTP/1.1 only.
//!
//! ```text
//! connection -> server -> cors -> auth (access token) -> user (Basic auth) -+-> process      process.Process
//!                  |                                                         +-> filesystem   filesystem.Filesystem
//!                  |                                                         +-> files        GET, POST /files
//!                  +-> ports    CONNECT, for the host only                   +-> health, init, metrics, envs, snapshot, sync, freeze, fsfreeze,
//!                                                                                collapse
//! ```
//!
//! What holds everywhere:
//! - One thread runs everything ([`tokio`]'s current-thread runtime): the guest's CPUs belong to the guest's work, and
//!   every page of this process is a page to bring back after a resume. File system work that may block goes to the
//!   blocking pool.
//! - A handler that changes something runs on a task of its own, so that a client that goes away half way does not leave
//!   it half done.
//! - Nothing a client or a child does stalls anybody else: queues are bounded, waits have deadlines.
//! - The image is not ours: no helper program of it is needed, and users are looked up in `/etc/passwd` and `/etc/group`
//!   directly, since a static binary has no name service.
#![forbid(unsafe_code)]

mod apart;
mod args;
mod auth;
mod cgroups;
mod collapse;
mod connect;
mod cors;
mod envs;
mod error;
mod files;
mod filesystem;
mod freeze;
mod fsfreeze;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod init;
mod metrics;
mod ports;
mod process;
mod push;
mod server;
mod snapshot;
mod state;
mod sync;
mod user;

use std::process::ExitCode;

/// Runs the daemon with the arguments of this process, until it is told to end by a signal.
#[must_use]
pub fn main() -> ExitCode {
    // Whoever starts it by a descriptor has the kernel call it by the number of that.
    let _ = rustix::thread::set_name(c"envd");
    let options = match args::parse(std::env::args().skip(1)) {
        Ok(args::Command::Serve(options)) => options,
        Ok(args::Command::Version) => {
            println!("{}", model::ENVD_VERSION);
            return ExitCode::SUCCESS;
        }
        Ok(args::Command::Commit) => {
            println!("{}", option_env!("COLDFRAME_COMMIT").unwrap_or("unknown"));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("envd: {error}\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match server::run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("envd: {error}");
            ExitCode::FAILURE
        }
    }
}
