//! Reading all of a build, to find whatever is wrong with it.

use build::{
    MAX_HEADER_BYTES, ObjectInfo, ObjectKind, ObjectName, PAGE_BYTES, SUM_BYTES, Source, checksum,
    data_object_bytes,
};
use model::BuildId;

use crate::error::ArtifactError;
use crate::image::{OpenSource, load_header};
use crate::store::{Store, label, load_blob, load_manifest, read_whole};

/// Everything that is wrong with a build, one error for each object. Reads all of it, and all of the data objects that its
/// images read from, also the pages that this build does not need. Nothing is a build that is whole.
#[must_use]
pub fn verify(store: &dyn Store, build: &BuildId) -> Vec<ArtifactError> {
    let manifest = match load_manifest(store, build) {
        Ok(manifest) => manifest,
        // Without it nobody knows what there should be.
        Err(error) => return vec![error],
    };
    let mut found = Vec::new();
    for (kind, info) in [(ObjectKind::Memory, manifest.memory), (ObjectKind::Disk, Some(manifest.disk))] {
        if let Some(info) = info {
            image(store, build, kind, info, &mut found);
        }
    }
    if let Some(info) = &manifest.device_state {
        found.extend(load_blob(store, build, ObjectName::DeviceState, info).err());
    }
    found
}

fn image(
    store: &dyn Store,
    build: &BuildId,
    kind: ObjectKind,
    info: ObjectInfo,
    found: &mut Vec<ArtifactError>,
) {
    let header = same_header(store, build, kind, info).and_then(|()| load_header(store, build, kind));
    let sources = match header {
        Ok(header) => header.sources().to_vec(),
        Err(error) => {
            found.push(error);
            Vec::new()
        }
    };
    for source in &sources {
        found.extend(data(store, source, kind).err());
    }
    // What it stores itself and does not need: then only the manifest knows of it.
    if sources.iter().all(|source| source.build != *build) {
        found.extend(own_data(store, build, kind, info).err());
    }
}

/// A header may be a good one, of this build, and still not the one that it was published with.
fn same_header(
    store: &dyn Store,
    build: &BuildId,
    kind: ObjectKind,
    info: ObjectInfo,
) -> Result<(), ArtifactError> {
    let bytes = read_whole(store, build, kind.header(), MAX_HEADER_BYTES)?;
    let (found, expected) = (checksum(&bytes), info.header_crc);
    if found == expected {
        return Ok(());
    }
    // What says more comes first.
    load_header(store, build, kind)?;
    Err(ArtifactError::Damaged { object: label(build, kind.header()), offset: 0, found, expected })
}

fn data(store: &dyn Store, source: &Source, kind: ObjectKind) -> Result<(), ArtifactError> {
    Ok(OpenSource::open(store, source, kind)?.verify()?)
}

fn own_data(
    store: &dyn Store,
    build: &BuildId,
    kind: ObjectKind,
    info: ObjectInfo,
) -> Result<(), ArtifactError> {
    let object = store.open(build, kind.data())?;
    let (found, pages) = (object.len(), info.bytes / (PAGE_BYTES + SUM_BYTES));
    if found != info.bytes || data_object_bytes(pages) != info.bytes {
        let object = label(build, kind.data());
        return Err(ArtifactError::Length { object, found, expected: info.bytes });
    }
    Ok(OpenSource::trusting(object, label(build, kind.data()), pages)?.verify()?)
}
