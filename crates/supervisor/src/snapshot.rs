//! Writing a machine to a build that is not published yet. Blocks: reads memory and disk, writes files.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use artifacts::{LocalStore, Staged, Store};
use build::{Manifest, ObjectInfo, ObjectKind, ObjectName, PAGE_BYTES, PageSink, Pages};
use control::Launch;
use disk::{BlockDevice, Frozen};
use guest_memory::kept::Kept;
use guest_memory::{MemfdReader, MemoryReader, export};
use jiff::Timestamp;
use model::BuildId;
use tokio_util::sync::CancellationToken;

use crate::machine::{Parent, Parts};

/// What a build is made of.
pub(crate) struct Capture {
    pub(crate) build: BuildId,
    pub(crate) launch: Launch,
    pub(crate) parts: Arc<Parts>,
    pub(crate) envd_version: String,
    pub(crate) content: Content,
    /// Gives up soon after it is cancelled.
    pub(crate) cancel: CancellationToken,
}

/// What is written, and where it comes from.
pub(crate) enum Content {
    /// The machine itself, whose virtual processors do not run until this is written. `vmm_pid` is its VMM.
    Machine { vmm_pid: i32, device_state: Vec<u8> },
    /// What was kept of a machine that runs on.
    Kept(Moment),
    /// The disk alone of a machine whose virtual processors do not run until this is written.
    Disk,
}

/// A machine as it was at one moment.
pub(crate) struct Moment {
    /// `None`: its disk alone was kept.
    pub(crate) running: Option<Running>,
    pub(crate) disk: Arc<Frozen>,
}

/// What makes a machine go on where it was.
pub(crate) struct Running {
    pub(crate) memory: Kept,
    pub(crate) device_state: Vec<u8>,
}

/// A build that waits to be published.
pub(crate) struct Written {
    pub(crate) staged: Staged,
    pub(crate) manifest: Manifest,
}

/// Writes the disk and, unless it is to be alone, memory and device state.
///
/// # Errors
/// When something cannot be read or written, or it was cancelled. Nothing is left then.
pub(crate) fn write(capture: Capture) -> io::Result<Written> {
    let Capture { build, launch, parts, envd_version, content, cancel } = capture;
    let store = LocalStore::open(&launch.store).map_err(io::Error::other)?;
    let staged = store.begin(&build).map_err(io::Error::other)?;
    let parent = parts.parent();
    let writing = Writing { staged: &staged, parts: &parts, parent: parent.as_ref(), cancel: &cancel };
    let (memory, disk, device_state) = match content {
        Content::Machine { vmm_pid, device_state } => {
            if let Some(pages) = &parts.pages {
                pages.cancel_prefetch();
            }
            let changed = parts.changed(vmm_pid)?;
            let memory = writing.memory(&MemfdReader::new(&parts.memory)?, &changed)?;
            let disk = writing.disk(|parent, sink| parts.disk.export(parent, sink))?;
            (Some(memory), disk, Some(device_state))
        }
        Content::Kept(Moment { running, disk }) => {
            let written = |Running { memory, device_state }| {
                Ok::<_, io::Error>((writing.memory(&memory, memory.ranges())?, device_state))
            };
            // What was kept of the memory is given back before the disk is written.
            let (memory, device_state) = running.map(written).transpose()?.unzip();
            (memory, writing.disk(|parent, sink| disk.export(parent, sink))?, device_state)
        }
        Content::Disk => (None, writing.disk(|parent, sink| parts.disk.export(parent, sink))?, None),
    };
    let put = |state: Vec<u8>| staged.put_blob(ObjectName::DeviceState, &state).map_err(io::Error::other);
    let device_state = device_state.map(put).transpose()?;
    let manifest = Manifest {
        id: build,
        parent: parent.map(|parent| parent.build),
        created_at: Timestamp::now(),
        owner: (!launch.goal.is_template()).then(|| launch.spec.id.clone()),
        shape: launch.spec.shape,
        vmm: crate::origin::identity_of(&parts.identity),
        tsc_khz: None,
        envd_version,
        working_set: if memory.is_some() { parts.working_set() } else { Vec::new() },
        memory,
        disk,
        device_state,
        boot: parts.boot.clone(),
    };
    Ok(Written { staged, manifest })
}

/// Writing the images of one build.
struct Writing<'a> {
    staged: &'a Staged,
    parts: &'a Parts,
    parent: Option<&'a Parent>,
    cancel: &'a CancellationToken,
}

impl Writing<'_> {
    fn memory(&self, reader: &dyn MemoryReader, changed: &[Range<u64>]) -> io::Result<ObjectInfo> {
        let parent = self.parent.and_then(|parent| parent.memory.clone());
        let pages = self.parts.memory.size() / PAGE_BYTES;
        let mut writer =
            self.staged.writer(ObjectKind::Memory, parent.clone(), pages).map_err(io::Error::other)?;
        let mut sink = Cancellable { sink: &mut writer, cancel: self.cancel };
        let parent = parent.as_deref().map(|image| image as &dyn Pages);
        export::export(reader, changed, parent, &mut sink).map_err(io::Error::other)?;
        writer.finish().map_err(io::Error::other)
    }

    fn disk(
        &self,
        export: impl FnOnce(Option<&dyn Pages>, &mut dyn PageSink) -> Result<(), disk::ExportError>,
    ) -> io::Result<ObjectInfo> {
        let parent = self.parent.map(|parent| Arc::clone(&parent.disk));
        let pages = self.parts.disk.size() / PAGE_BYTES;
        let mut writer =
            self.staged.writer(ObjectKind::Disk, parent.clone(), pages).map_err(io::Error::other)?;
        let mut sink = Cancellable { sink: &mut writer, cancel: self.cancel };
        export(parent.as_deref().map(|image| image as &dyn Pages), &mut sink).map_err(io::Error::other)?;
        writer.finish().map_err(io::Error::other)
    }
}

/// A sink that refuses what comes after it was cancelled.
struct Cancellable<'a> {
    sink: &'a mut dyn PageSink,
    cancel: &'a CancellationToken,
}

impl Cancellable<'_> {
    fn check(&self) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the pause was taken back"));
        }
        Ok(())
    }
}

impl PageSink for Cancellable<'_> {
    fn data(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.check()?;
        self.sink.data(first, bytes)
    }

    fn summed(&mut self, first: u64, bytes: &[u8], sums: &[u32]) -> io::Result<()> {
        self.check()?;
        self.sink.summed(first, bytes, sums)
    }

    fn zero(&mut self, first: u64, pages: u64) -> io::Result<()> {
        self.check()?;
        self.sink.zero(first, pages)
    }
}
