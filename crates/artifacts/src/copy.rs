//! A build in another store.
//!
//! There it needs no other: it has all pages in its own data objects, those of the builds that it reads from as well. What is
//! in it is the same, and so is its name.

use build::{BootFiles, Manifest, ObjectInfo, ObjectKind, ObjectName};
use model::BuildId;

use crate::compaction::take_over;
use crate::error::ArtifactError;
use crate::image::Image;
use crate::staged::Staged;
use crate::store::{Store, load_blob, load_manifest};

/// A copy that is to be made.
#[derive(Clone)]
pub struct Copying<'a> {
    /// Where it is.
    pub from: &'a dyn Store,
    /// The build.
    pub build: &'a BuildId,
    /// Where it goes.
    pub to: &'a dyn Store,
    /// What boots its disk there.
    pub boot: Option<BootFiles>,
}

impl Copying<'_> {
    /// Makes the copy and publishes it. It reads and verifies everything, and tells `told` how many pages it has copied, of how
    /// many, now and then.
    ///
    /// # Errors
    /// When it is there already, something of it is missing or damaged, or the storage fails. Nothing is left of it then.
    pub fn run(self, told: &mut dyn FnMut(u64, u64)) -> Result<Manifest, ArtifactError> {
        let manifest = load_manifest(self.from, self.build)?;
        let disk = Image::open(self.from, self.build, ObjectKind::Disk)?;
        let memory =
            manifest.memory.map(|_| Image::open(self.from, self.build, ObjectKind::Memory)).transpose()?;
        let staged = self.to.begin(self.build)?;
        let all = [memory.as_ref(), Some(&disk)];
        let all = all.into_iter().flatten().map(|image| image.header().stored_pages()).sum();
        let mut copied = 0;
        let mut count = |pages| {
            told(copied, all);
            copied += pages;
            true
        };
        let memory = memory.map(|image| copy(&image, &staged, ObjectKind::Memory, &mut count)).transpose()?;
        let disk = copy(&disk, &staged, ObjectKind::Disk, &mut count)?;
        let device_state = match &manifest.device_state {
            Some(info) => {
                let state = load_blob(self.from, self.build, ObjectName::DeviceState, info)?;
                Some(staged.put_blob(ObjectName::DeviceState, &state)?)
            }
            None => None,
        };
        let made = Manifest { parent: None, memory, disk, device_state, boot: self.boot, ..manifest };
        staged.publish(&made)?;
        Ok(made)
    }
}

fn copy(
    image: &Image,
    staged: &Staged,
    kind: ObjectKind,
    count: &mut dyn FnMut(u64) -> bool,
) -> Result<ObjectInfo, ArtifactError> {
    let mut writer = staged.writer(kind, None, image.header().pages())?;
    take_over(image, image.header().extents(), &mut writer, staged, kind, count)?;
    writer.finish()
}
