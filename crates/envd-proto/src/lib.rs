//! Protocol of the guest daemon, generated at build time from the descriptions in proto/.
//!
//! [`process`] and [`filesystem`] hold the messages, the service traits that the daemon implements and, with the feature
//! `client`, the clients. The names, numbers and JSON forms are those of the E2B protocol: what is here decides whether
//! an unmodified SDK works, so a change is an addition or a mistake.
#![forbid(unsafe_code)]

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::needless_pass_by_value,
    clippy::unwrap_used,
    reason = "generated"
)]
mod generated {
    ::connectrpc::include_generated!("envd.rs");
}

pub use generated::{filesystem, process};
