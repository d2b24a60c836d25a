//! The project's two commands.
#![forbid(unsafe_code)]

fn main() {}
