//! An image to measure with: every page differs from every other and none is zero.

use std::io;
use std::path::Path;
use std::sync::Arc;

use artifacts::{ArtifactError, Image, ImageWriter, LocalStore, Store};
use build::{Manifest, ObjectInfo, ObjectKind, PageSink, VmmIdentity};
use model::{BuildId, MiB, Shape, VcpuCount};

/// [`build::PAGE_BYTES`] as a length in memory.
pub(super) const PAGE: usize = 4096;
/// What is written at once.
const PIECE: usize = 256 * PAGE;

/// What every word of a page is.
pub(super) fn word(page: u64) -> u64 {
    (page + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The content of so many pages.
pub(super) fn content(pages: u64) -> Vec<u8> {
    (0..pages).flat_map(|page| word(page).to_le_bytes().repeat(PAGE / 8)).collect()
}

/// Stores the content as the memory of a build in a store in `dir`, and opens it.
pub(super) fn store(dir: &Path, content: &[u8]) -> Result<Arc<Image>, String> {
    let stored = || {
        let store = LocalStore::open(&dir.join("store"))?;
        let id = BuildId::random();
        publish(&store, &id, None, (content.len() / PAGE) as u64, |writer| {
            let mut pieces = (0_u64..).zip(content.chunks(PIECE));
            pieces.try_for_each(|(piece, bytes)| writer.data(piece * (PIECE / PAGE) as u64, bytes))
        })?;
        Image::open(&store, &id, ObjectKind::Memory)
    };
    stored().map(Arc::new).map_err(|error| format!("making the image in {}: {error}", dir.display()))
}

/// Publishes a build whose memory is what `fill` makes of the parent's, or of zeros. Its disk is empty.
pub(super) fn publish(
    store: &LocalStore,
    build: &BuildId,
    parent: Option<Arc<Image>>,
    pages: u64,
    fill: impl FnOnce(&mut ImageWriter) -> io::Result<()>,
) -> Result<(), ArtifactError> {
    let staged = store.begin(build)?;
    let mut writer = staged.writer(ObjectKind::Memory, parent, pages)?;
    fill(&mut writer).map_err(|source| ArtifactError::Io {
        action: "write",
        object: "the image".into(),
        source,
    })?;
    let memory = writer.finish()?;
    let disk = staged.writer(ObjectKind::Disk, None, 1)?.finish()?;
    staged.publish(&manifest(build, memory, disk))
}

/// Nobody reads it.
fn manifest(id: &BuildId, memory: ObjectInfo, disk: ObjectInfo) -> Manifest {
    Manifest {
        id: id.clone(),
        parent: None,
        created_at: jiff::Timestamp::now(),
        owner: None,
        shape: Shape { vcpus: VcpuCount(1), memory: MiB(1), disk: MiB(1) },
        vmm: VmmIdentity {
            name: "none".into(),
            version: String::new(),
            accel: String::new(),
            cpu: String::new(),
            machine: String::new(),
        },
        tsc_khz: None,
        envd_version: String::new(),
        memory: Some(memory),
        disk,
        device_state: None,
        working_set: Vec::new(),
        boot: None,
    }
}
