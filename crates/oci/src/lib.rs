//! Container images as directories.
//!
//! ```text
//! registry ── manifest, configuration ─> layers, the lowest first ─> a file each ─> laid over each other in a directory
//!             everything has the digest by which it was asked for                   by a process that can reach nothing else
//! ```
//! What is in a layer is anybody's: paths that lead elsewhere, links to follow, more bytes than there is room for. So layers are
//! unpacked by a process of their own whose root is the directory ([`unpack`]): whatever they say, it is about what is in there.
//!
//! What is spoken with a registry is a handful of requests, on the HTTP client that this program has anyway. A library for it was
//! measured: with the client that it brings along, the program grew by 3.8 MB, and it promises to have 25.
#![forbid(unsafe_code)]

mod challenge;
mod credentials;
mod pull;
mod reference;
mod registry;
mod unpack;

pub use pull::{Config, Image, PullError, pull};
pub use unpack::{UnpackError, layer_of, unpack};
