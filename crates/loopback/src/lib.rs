//! Ports that listen only inside a guest, on its loopback addresses.
//!
//! ```text
//!  edge ── node ── dials 169.254.0.21:3000 ───────────> refused
//!                  dials 169.254.0.21:49983 ──────────> envd
//!                  `CONNECT localhost:3000` ──────────> looks into /proc/net/tcp and tcp6, dials 127.0.0.1:3000
//!                  <───────────────────────── `200 OK`
//!                  bytes <──────────────────────────────────────> bytes
//! ```
//! Both ends of this are here: what the node sends and how it reads the answer ([`ask`]), and how the daemon reads what
//! it is asked ([`port_of`]) and finds who listens ([`listener`]). Nothing is done ahead of a request: a port can be
//! reached from the moment that it is bound, and nothing in the guest polls, holds a port or has to be stopped for a
//! snapshot.
#![forbid(unsafe_code)]

mod answer;
mod ask;
mod authority;
mod listener;
mod table;

pub use answer::{AnswerHead, BadAnswer, MAX_ANSWER_HEAD, Taken};
pub use ask::{AskError, ask};
pub use authority::{authority, port_of};
pub use listener::listener;
pub use table::{Listener, MAX_TABLE, search};
