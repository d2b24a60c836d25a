//! The edge in front of guests that are real servers on loopback.
#![allow(unreachable_pub, reason = "the modules of a test are its own")]

mod bytes_through;
mod harness;
mod lifetimes;
mod load;
mod refusals;
mod routing;
mod smuggling;
mod streaming;
mod tunnels;
