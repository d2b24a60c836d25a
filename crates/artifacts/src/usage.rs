//! What a build needs of those that it reads from.

use std::collections::BTreeMap;

use build::{ObjectKind, ObjectName, data_object_bytes};
use model::BuildId;

use crate::error::ArtifactError;
use crate::image::load_header;
use crate::store::Store;

/// Every object that a build can have.
const OBJECTS: [ObjectName; 6] = [
    ObjectName::Manifest,
    ObjectName::MemoryHeader,
    ObjectName::MemoryData,
    ObjectName::DiskHeader,
    ObjectName::DiskData,
    ObjectName::DeviceState,
];

/// What one build is to another that reads from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// The one that is read from.
    pub build: BuildId,
    /// What all of its objects take, in bytes.
    pub stored: u64,
    /// What the pages take that are needed of it, with their checksums, in bytes.
    pub used: u64,
}

impl Usage {
    /// What is kept for nothing, unless somebody else needs it, in bytes.
    #[must_use]
    pub fn dead(&self) -> u64 {
        self.stored.saturating_sub(self.used)
    }
}

/// What a build needs of each of its sources, in ascending order of their names. An image that is not there needs nothing.
///
/// # Errors
/// When a header of the build is damaged or cannot be read, or the storage fails.
pub fn usage(store: &dyn Store, build: &BuildId) -> Result<Vec<Usage>, ArtifactError> {
    let mut pages: BTreeMap<BuildId, u64> = BTreeMap::new();
    for kind in [ObjectKind::Memory, ObjectKind::Disk] {
        let header = match load_header(store, build, kind) {
            Ok(header) => header,
            Err(ArtifactError::Missing { .. }) => continue,
            Err(error) => return Err(error),
        };
        for (source, used) in header.sources().iter().zip(header.used_pages()) {
            *pages.entry(source.build.clone()).or_default() += used;
        }
    }
    let usage = |(build, pages)| {
        Ok(Usage { stored: stored_bytes(store, &build)?, used: data_object_bytes(pages), build })
    };
    pages.into_iter().map(usage).collect()
}

/// What the objects of a build take, in bytes. One that is not there takes nothing.
///
/// # Errors
/// When the storage fails.
pub fn stored_bytes(store: &dyn Store, build: &BuildId) -> Result<u64, ArtifactError> {
    OBJECTS.into_iter().try_fold(0, |bytes: u64, name| match store.open(build, name) {
        Ok(object) => Ok(bytes.saturating_add(object.len())),
        Err(ArtifactError::Missing { .. }) => Ok(bytes),
        Err(error) => Err(error),
    })
}
