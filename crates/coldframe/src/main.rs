//! The one binary: server, supervisor and the tools around them.
#![forbid(unsafe_code)]

fn main() {}
