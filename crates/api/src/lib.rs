//! The REST surface that E2B clients speak.
//!
//! [`router`] answers every request with what clients expect, errors as `{"code","message"}`. Who is asking comes from
//! the catalog, what runs comes from a [`model::Fleet`]; nothing here knows a virtual machine.
//!
//! # When the client goes away
//! Whatever changes something runs on its own task, so a client that disconnects, or a request that outlives its
//! deadline (504), does not stop it halfway. Ending, pausing or resuming a sandbox, moving its end time, and making or
//! deleting a snapshot are carried through. A new sandbox whose id nobody received, of a create or of a fork, is ended
//! again, unless the create had an idempotency key: then a repeated create with the same key finds it.
#![forbid(unsafe_code)]

mod auth;
mod body;
mod config;
mod cursor_text;
mod detach;
mod error;
mod guard;
mod health;
mod params;
mod path;
mod pending;
mod router;
mod sandboxes;
mod snapshots;
mod state;
mod templates;
mod unread;
mod wake;
mod wire;

pub use config::ApiConfig;
pub use router::router;
pub use state::ApiState;
