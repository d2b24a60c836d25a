//! Making a build again, with fewer sources.
//!
//! Every pause adds a build and makes pages of older ones useless. A build is deleted as a whole, so one of which a single
//! page is needed takes all of its space, and each one makes opening an image a little slower. Compaction writes a build
//! anew under another name: the same in everything, but with the pages of some sources in its own data objects, so that
//! nobody needs those sources any more.
//!
//! The build that is there stays as it is, and whoever reads from it reads on. What becomes of the two is the caller's
//! business.

use std::collections::BTreeSet;
use std::sync::Arc;

use build::{BlobInfo, Extent, Manifest, ObjectInfo, ObjectKind, ObjectName, PAGE_BYTES, PageSink, Pages};
use model::BuildId;

use crate::error::ArtifactError;
use crate::image::Image;
use crate::staged::Staged;
use crate::store::{Store, label, load_blob, load_manifest};
use crate::writer::ImageWriter;

/// How many pages are read at once. Between two pieces it is asked whether anybody still wants the result.
const PIECE: u64 = 64;

/// What came of a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compacted {
    /// The new build is in the store, durably.
    Published {
        /// How many bytes of pages were copied.
        copied: u64,
    },
    /// Nobody wanted it any more; nothing is left of it.
    GivenUp,
}

/// A build that is to be made again.
#[derive(Clone, Copy)]
pub struct Compaction<'a> {
    /// Where it is, and where the new one goes.
    pub store: &'a dyn Store,
    /// The build.
    pub from: &'a BuildId,
    /// What the new one is called.
    pub into: &'a BuildId,
    /// The sources whose pages are taken over, beside those of the build itself. All others are referred to as before.
    pub without: &'a BTreeSet<BuildId>,
    /// Asked again and again whether the new build is still wanted.
    pub wanted: &'a dyn Fn() -> bool,
}

/// Writes pieces of an image to another one, at the same places, and verifies what it reads. Before each some 256 KiB it asks
/// whether to go on, and says how many pages come; false when it is not to.
pub(crate) fn take_over(
    image: &Image,
    extents: impl Iterator<Item = Extent>,
    writer: &mut ImageWriter,
    staged: &Staged,
    kind: ObjectKind,
    wanted: &mut dyn FnMut(u64) -> bool,
) -> Result<bool, ArtifactError> {
    let failed = |source| ArtifactError::object("write", &label(staged.build(), kind.data()))(source);
    let mut buffer = Vec::new();
    for extent in extents {
        let end = extent.first + extent.pages;
        let mut first = extent.first;
        while first < end {
            let pages = (end - first).min(PIECE);
            if !wanted(pages) {
                return Ok(false);
            }
            // Not more than a piece.
            buffer.resize(usize::try_from(pages * PAGE_BYTES).unwrap_or_default(), 0);
            image.read(first, &mut buffer)?;
            // Just verified: they are what is written again.
            let sums: Vec<u32> = (first..first + pages).filter_map(|page| image.sum(page)).collect();
            writer.summed(first, &buffer, &sums).map_err(failed)?;
            first += pages;
        }
    }
    Ok(true)
}

impl Compaction<'_> {
    /// Makes the new build and publishes it. It reads and verifies what it copies, and holds 2 MiB, the device state and 4 bytes
    /// for every page of the sources.
    ///
    /// # Errors
    /// When what is copied is missing or damaged, or the storage fails. Nothing is left then, and the build stays as it is.
    pub fn run(&self) -> Result<Compacted, ArtifactError> {
        let manifest = load_manifest(self.store, self.from)?;
        let staged = self.store.begin(self.into)?;
        let mut copied = 0;
        let memory = match manifest.memory {
            Some(_) => {
                let Some((info, bytes)) = self.image(&staged, ObjectKind::Memory)? else {
                    return Ok(Compacted::GivenUp);
                };
                copied += bytes;
                Some(info)
            }
            None => None,
        };
        let Some((disk, bytes)) = self.image(&staged, ObjectKind::Disk)? else {
            return Ok(Compacted::GivenUp);
        };
        copied += bytes;
        let device_state = manifest.device_state.map(|info| self.device_state(&staged, &info)).transpose()?;
        if !(self.wanted)() {
            return Ok(Compacted::GivenUp);
        }
        staged.publish(&Manifest { id: self.into.clone(), memory, disk, device_state, ..manifest })?;
        Ok(Compacted::Published { copied })
    }

    /// Writes an image of the new build. `None`: nobody wants it any more.
    fn image(&self, staged: &Staged, kind: ObjectKind) -> Result<Option<(ObjectInfo, u64)>, ArtifactError> {
        let image = Arc::new(Image::open(self.store, self.from, kind)?);
        let header = image.header();
        let taken: Vec<bool> = header
            .sources()
            .iter()
            .map(|source| source.build == *self.from || self.without.contains(&source.build))
            .collect();
        let mut writer = staged.writer(kind, Some(Arc::clone(&image)), header.pages())?;
        let extents = header.extents().filter(|extent| taken[extent.source]);
        if !take_over(&image, extents, &mut writer, staged, kind, &mut |_| (self.wanted)())? {
            return Ok(None);
        }
        let copied = writer.stored_bytes();
        Ok(Some((writer.finish()?, copied)))
    }

    fn device_state(&self, staged: &Staged, info: &BlobInfo) -> Result<BlobInfo, ArtifactError> {
        let state = load_blob(self.store, self.from, ObjectName::DeviceState, info)?;
        staged.put_blob(ObjectName::DeviceState, &state)
    }
}
