//! What runs inside the guest, and inside its VMM, embedded. Statics, since every use of a constant may become a copy.

static ENVD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envd"));
static PRELOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libuffd_preload.so"));
static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-init"));

/// The embedded programs.
pub(crate) fn binaries() -> Result<template::GuestBinaries<'static>, String> {
    if ENVD.is_empty() || INIT.is_empty() {
        return Err(
            "this binary was built without the guest's programs; build it with `cargo xtask up`".into()
        );
    }
    Ok(template::GuestBinaries { envd: ENVD, init: INIT })
}

/// The library that a VMM is started with to hand over its guest's memory; empty when the binary was built without.
pub(crate) fn preload() -> &'static [u8] {
    PRELOAD
}

/// The guest daemon, for measuring it outside a guest.
pub(crate) fn envd() -> Result<&'static [u8], String> {
    binaries().map(|binaries| binaries.envd)
}
