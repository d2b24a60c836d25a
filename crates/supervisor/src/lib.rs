//! One process, one sandbox: composes VMM, disk, network and guest, and owns the lifecycle.
#![forbid(unsafe_code)]
