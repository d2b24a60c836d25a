//! The programs that run inside the guest, embedded. Statics, since every use of a constant may become a copy.

static ENVD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envd"));
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

/// The guest daemon, for measuring it outside a guest.
pub(crate) fn envd() -> Result<&'static [u8], String> {
    binaries().map(|binaries| binaries.envd)
}
