//! The edge in front of guests that are real servers on loopback.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test fails where it stands, and its modules are its own"
)]

mod bytes_through;
mod harness;
mod lifetimes;
mod load;
mod refusals;
mod routing;
mod smuggling;
mod streaming;
mod tunnels;
mod waking;
