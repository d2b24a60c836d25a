//! What the tests of this crate share.
#![allow(dead_code, unused_imports, reason = "each test program uses a part")]

pub(crate) mod count;
pub(crate) mod guest;
pub(crate) mod machine;

pub(crate) use guest::*;
