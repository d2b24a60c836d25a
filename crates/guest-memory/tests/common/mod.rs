//! What the tests share: an image whose pages everybody can compute, and a second process that maps guest memory.
#![allow(dead_code, reason = "each test uses a part of it")]

pub(crate) mod model;
pub(crate) mod monitor;
pub(crate) mod peer;
pub(crate) mod preload;
pub(crate) mod userfaultfd;
