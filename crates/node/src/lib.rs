//! Everything that runs on this host: admission, slots, supervisors and their re-adoption.
#![forbid(unsafe_code)]
