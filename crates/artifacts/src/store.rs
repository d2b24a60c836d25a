//! What readers and writers of builds need of a store.

use std::io;

use build::{BlobInfo, MAX_MANIFEST_BYTES, Manifest, ObjectName, checksum};
use model::BuildId;

use crate::error::ArtifactError;
use crate::staged::Staged;

/// The largest object that is read as a whole, in bytes: a device state has less than one MiB, and with a graphics card
/// some dozens.
pub const MAX_BLOB_BYTES: u64 = 64 << 20;

/// An object of a published build. Any number of threads may read at once.
#[allow(clippy::len_without_is_empty, reason = "an object is not a collection")]
pub trait Object: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// When the storage fails, or the object ends before the buffer is full.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Where builds live. Its functions block.
pub trait Store: Send + Sync {
    /// Opens an object of a published build.
    ///
    /// # Errors
    /// [`ArtifactError::Missing`] when there is no such build or object; when the storage fails.
    fn open(&self, build: &BuildId, name: ObjectName) -> Result<Box<dyn Object>, ArtifactError>;

    /// Starts a build that nobody sees until it is published.
    ///
    /// # Errors
    /// [`ArtifactError::Exists`] when it is published already; when the storage fails.
    fn begin(&self, build: &BuildId) -> Result<Staged, ArtifactError>;

    /// Whether a build is published, damaged or not.
    ///
    /// # Errors
    /// When the storage fails.
    fn contains(&self, build: &BuildId) -> Result<bool, ArtifactError>;

    /// Removes a build; nothing happens when there is none. Images that are open can be read further. That no other
    /// build's image needs it is the caller's business.
    ///
    /// # Errors
    /// When the storage fails.
    fn remove(&self, build: &BuildId) -> Result<(), ArtifactError>;

    /// The published builds, damaged ones too, in ascending order of their names.
    ///
    /// # Errors
    /// When the storage fails.
    fn list(&self) -> Result<Vec<BuildId>, ArtifactError>;
}

/// How an object is called in errors.
pub(crate) fn label(build: &BuildId, name: ObjectName) -> String {
    format!("{name} of build {build}")
}

/// Reads an object of at most `limit` bytes as a whole.
pub(crate) fn read_whole(
    store: &dyn Store,
    build: &BuildId,
    name: ObjectName,
    limit: u64,
) -> Result<Vec<u8>, ArtifactError> {
    let object = store.open(build, name)?;
    let found = object.len();
    let too_large = || ArtifactError::TooLarge { object: label(build, name), found, limit };
    if found > limit {
        return Err(too_large());
    }
    let mut bytes = vec![0; usize::try_from(found).map_err(|_| too_large())?];
    object.read_exact_at(&mut bytes, 0).map_err(ArtifactError::object("read", &label(build, name)))?;
    Ok(bytes)
}

/// Reads what a build is.
///
/// # Errors
/// When there is no such build, or its manifest cannot be read, is damaged, has a later format or is another build's.
pub fn load_manifest(store: &dyn Store, build: &BuildId) -> Result<Manifest, ArtifactError> {
    let bytes = read_whole(store, build, ObjectName::Manifest, MAX_MANIFEST_BYTES as u64)?;
    let object = || label(build, ObjectName::Manifest);
    let manifest =
        Manifest::decode(&bytes).map_err(|source| ArtifactError::Format { object: object(), source })?;
    if manifest.id != *build {
        let found = format!("that of build {}", manifest.id);
        return Err(ArtifactError::Wrong {
            object: object(),
            found,
            expected: format!("that of build {build}"),
        });
    }
    Ok(manifest)
}

/// Reads an object as a whole, which has to be what `info` from the build's manifest says.
///
/// # Errors
/// When it cannot be read, or has another length or checksum.
pub fn load_blob(
    store: &dyn Store,
    build: &BuildId,
    name: ObjectName,
    info: &BlobInfo,
) -> Result<Vec<u8>, ArtifactError> {
    let bytes = read_whole(store, build, name, MAX_BLOB_BYTES)?;
    let object = label(build, name);
    if bytes.len() as u64 != info.bytes {
        return Err(ArtifactError::Length { object, found: bytes.len() as u64, expected: info.bytes });
    }
    let (found, expected) = (checksum(&bytes), info.crc);
    if found != expected {
        return Err(ArtifactError::Damaged { object, offset: 0, found, expected });
    }
    Ok(bytes)
}
