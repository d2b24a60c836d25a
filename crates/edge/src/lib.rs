//! The data plane: from a client's request to a port inside a sandbox.
//!
//! One port serves everything. [`serve`] accepts connections; a request that names a sandbox, by the headers
//! `E2b-Sandbox-Id` and `E2b-Sandbox-Port` on any host or by a host `<port>-<id>[-client].<domain>`, is forwarded to
//! that port of the guest, and every other one goes to the API. Bodies stream both ways and are never held whole. A
//! request for a paused sandbox that traffic resumes waits for the resume, after everything that would refuse it was
//! checked.
//!
//! What the edge knows of sandboxes it asks the [`Sandboxes`] it is made with.
#![forbid(unsafe_code)]

mod answer;
mod client;
mod config;
mod edge;
mod forward;
mod guest;
mod headers;
mod internal_routes;
mod link;
mod meter;
mod refusal;
mod route;
mod sandboxes;
mod serve;
mod signed_url;
mod socket;
mod tunnel;
mod wake;
mod watch;

pub use answer::BodyError;
pub use client::{Api, PeerAddr};
pub use config::{EdgeConfig, Timeouts};
pub use edge::Edge;
pub use sandboxes::{ConnectError, Sandboxes, Target, WakeError};
pub use serve::serve;

/// The header with the token for ports that are not public. It never reaches a guest.
pub const TRAFFIC_TOKEN_HEADER: &str = "e2b-traffic-access-token";
