//! The daemon inside every sandbox: processes, files, health.
#![forbid(unsafe_code)]

fn main() {}
