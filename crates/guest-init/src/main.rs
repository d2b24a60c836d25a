//! PID 1 of every sandbox: modules, mounts, network, zombies, envd.
#![forbid(unsafe_code)]

fn main() {}
