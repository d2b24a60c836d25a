//! What a build is, apart from its pages.

use jiff::Timestamp;
use model::{BuildId, SandboxId, Shape};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::checksum;
use crate::error::FormatError;

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;

/// The largest manifest in bytes; nearly all of it can only be the working set.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// The most ranges of a working set. What is more scattered is not worth reading ahead.
pub const MAX_WORKING_SET: usize = 65_536;

/// What a build is. It is the object that says which others there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The build's name.
    pub id: BuildId,
    /// The build that its images continue, if any. Reading them may need builds before that: see their headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<BuildId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// The sandbox that was paused; `None` for a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SandboxId>,
    /// The machine that it is of.
    pub shape: Shape,
    /// The VMM that [`Manifest::memory`] and [`Manifest::device_state`] are tied to.
    pub vmm: VmmIdentity,
    /// The rate of the guest's time stamp counter in kHz, where the VMM told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tsc_khz: Option<u32>,
    /// The version of the guest daemon in it.
    pub envd_version: String,
    /// The guest's memory; `None` when only the disk was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ObjectInfo>,
    /// The root disk.
    pub disk: ObjectInfo,
    /// What the VMM needs beside the memory to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_state: Option<BlobInfo>,
    /// Which memory pages the guest needed first after a resume, in that order: (first page, pages).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub working_set: Vec<(u64, u64)>,
    /// What boots the disk when the memory cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootFiles>,
}

/// The VMM that wrote a device state. Another one cannot be expected to read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmIdentity {
    /// `qemu`, say.
    pub name: String,
    /// Its version, as it says itself.
    pub version: String,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// The processor that the guest sees.
    pub cpu: String,
    /// The kind of machine and its options.
    pub machine: String,
}

/// An image of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectInfo {
    /// The length of its own data object, in bytes.
    pub bytes: u64,
    /// The checksum of its header object.
    pub header_crc: u32,
}

/// An object that is read as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobInfo {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its checksum.
    pub crc: u32,
}

/// The files that boot a build's disk. They are shared by many builds and not part of any.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFiles {
    /// Path of an uncompressed kernel.
    pub kernel: String,
    /// Path of its initial RAM file system.
    pub initrd: String,
}

/// What every format has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// The file: the manifest's own text, and its checksum.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    crc32c: String,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

impl Manifest {
    /// The manifest as the bytes of its object: JSON, with the checksum of the text of its `manifest` member.
    ///
    /// # Errors
    /// When the working set, or the whole, is larger than a reader takes.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        self.check()?;
        let text = serde_json::value::to_raw_value(self).map_err(json)?;
        let crc32c = format!("{:08x}", checksum(text.get().as_bytes()));
        let envelope = Envelope { format: FORMAT, crc32c, manifest: &text };
        let mut bytes = serde_json::to_vec(&envelope).map_err(json)?;
        bytes.push(b'\n');
        check_size(bytes.len())?;
        Ok(bytes)
    }

    /// Reads what [`Manifest::encode`] wrote, in any format that was ever written.
    ///
    /// # Errors
    /// When it is no manifest, was changed, or has a later format.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        check_size(bytes.len())?;
        let Versioned { format } = serde_json::from_slice(bytes).map_err(json)?;
        if format > FORMAT {
            return Err(FormatError::Newer { found: format, newest: FORMAT });
        }
        if format == 0 {
            return Err(FormatError::Json("format 0, expected a format from 1 on".to_owned()));
        }
        let Envelope { crc32c, manifest, .. } = serde_json::from_slice(bytes).map_err(json)?;
        let expected = u32::from_str_radix(&crc32c, 16)
            .map_err(|_| FormatError::Json(format!("crc32c {crc32c:?}, expected 8 hexadecimal digits")))?;
        let text = manifest.get().as_bytes();
        let found = checksum(text);
        if found != expected {
            return Err(FormatError::Checksum { end: text.len(), found, expected });
        }
        let manifest: Self = serde_json::from_slice(text).map_err(json)?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), FormatError> {
        let found = self.working_set.len();
        if found > MAX_WORKING_SET {
            let what = "ranges of the working set";
            return Err(FormatError::TooMany { what, found, limit: MAX_WORKING_SET });
        }
        Ok(())
    }
}

fn check_size(found: usize) -> Result<(), FormatError> {
    if found > MAX_MANIFEST_BYTES {
        return Err(FormatError::TooMany { what: "bytes of manifest", found, limit: MAX_MANIFEST_BYTES });
    }
    Ok(())
}

fn json(error: impl std::fmt::Display) -> FormatError {
    FormatError::Json(error.to_string())
}
