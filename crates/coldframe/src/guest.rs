//! What runs inside the guest, and inside its VMM, embedded. Statics, since every use of a constant may become a copy.

use std::io::Read as _;

use flate2::read::GzDecoder;
use template::GuestBinaries;

static ENVD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envd"));
static PRELOAD: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libuffd_preload.so"));
static INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest-init"));

/// The embedded programs.
pub(crate) struct Programs {
    envd: Vec<u8>,
    init: Vec<u8>,
}

impl Programs {
    pub(crate) fn unpack() -> Result<Self, String> {
        Ok(Self { envd: envd()?, init: unpacked(INIT)? })
    }

    pub(crate) fn binaries(&self) -> GuestBinaries<'_> {
        GuestBinaries { envd: &self.envd, init: &self.init }
    }
}

/// The library that a VMM is started with to hand over its guest's memory; empty when the binary was built without.
pub(crate) fn preload() -> &'static [u8] {
    PRELOAD
}

/// The guest daemon, for measuring it outside a guest.
pub(crate) fn envd() -> Result<Vec<u8>, String> {
    unpacked(ENVD)
}

fn unpacked(embedded: &[u8]) -> Result<Vec<u8>, String> {
    if embedded.is_empty() {
        return Err(
            "this binary was built without the guest's programs; build it with `cargo xtask up`".into()
        );
    }
    let mut program = Vec::new();
    GzDecoder::new(embedded)
        .read_to_end(&mut program)
        .map_err(|error| format!("unpacking the guest's programs: {error}"))?;
    Ok(program)
}
