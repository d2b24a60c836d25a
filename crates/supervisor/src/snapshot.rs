//! Writing a stopped machine to a build that is not published yet. Blocks: reads memory and disk, writes files.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use artifacts::{LocalStore, Staged, Store};
use build::{Manifest, ObjectInfo, ObjectKind, ObjectName, PAGE_BYTES, PageSink, Pages};
use control::{Goal, Launch};
use disk::BlockDevice;
use guest_memory::{MemfdReader, dirty, export};
use jiff::Timestamp;
use model::BuildId;
use tokio_util::sync::CancellationToken;

use crate::machine::Parts;

/// A machine whose virtual processors do not run.
pub(crate) struct Stopped {
    pub(crate) build: BuildId,
    pub(crate) launch: Launch,
    pub(crate) parts: Arc<Parts>,
    pub(crate) vmm_pid: i32,
    pub(crate) envd_version: String,
    pub(crate) device_state: Vec<u8>,
    /// Gives up soon after it is cancelled.
    pub(crate) cancel: CancellationToken,
}

/// A build that waits to be published.
pub(crate) struct Written {
    pub(crate) staged: Staged,
    pub(crate) manifest: Manifest,
    /// The builds that were made for this sandbox alone and that this one reads from, itself included.
    pub(crate) owned: Vec<BuildId>,
}

/// Writes memory, disk and device state.
///
/// # Errors
/// When something cannot be read or written, or it was cancelled. Nothing is left then.
pub(crate) fn write(stopped: Stopped) -> io::Result<Written> {
    let Stopped { build, launch, parts, vmm_pid, envd_version, device_state, cancel } = stopped;
    let store = LocalStore::open(&launch.store).map_err(io::Error::other)?;
    let staged = store.begin(&build).map_err(io::Error::other)?;
    let memory = write_memory(&staged, &parts, vmm_pid, &cancel)?;
    let disk = write_disk(&staged, &parts, &cancel)?;
    let device_state = staged.put_blob(ObjectName::DeviceState, &device_state).map_err(io::Error::other)?;
    let origin = parts.origin.as_ref();
    let mut owned = vec![build.clone()];
    if let Some(origin) = origin {
        owned.extend(origin.owned_by(&launch.spec.id));
    }
    let manifest = Manifest {
        id: build,
        parent: origin.map(|origin| origin.manifest.id.clone()),
        created_at: Timestamp::now(),
        owner: (launch.goal == Goal::Run).then(|| launch.spec.id.clone()),
        shape: launch.spec.shape,
        vmm: crate::origin::identity_of(&parts.identity),
        tsc_khz: None,
        envd_version,
        memory: Some(memory),
        disk,
        device_state: Some(device_state),
        working_set: parts.working_set(),
        boot: None,
    };
    Ok(Written { staged, manifest, owned })
}

fn write_memory(
    staged: &Staged,
    parts: &Parts,
    vmm_pid: i32,
    cancel: &CancellationToken,
) -> io::Result<ObjectInfo> {
    let parent = parts.origin.as_ref().map(|origin| Arc::clone(&origin.memory));
    let candidates = match &parts.pages {
        Some(pages) => {
            pages.cancel_prefetch();
            let removed = pages.removed();
            let pid = u32::try_from(vmm_pid).map_err(io::Error::other)?;
            dirty::scan(pid, pages.regions(), Some(parts.memory.as_fd()), &removed)
                .map_err(io::Error::other)?
        }
        None => dirty::populated(&parts.memory).map_err(io::Error::other)?,
    };
    let reader = MemfdReader::new(&parts.memory)?;
    let pages = parts.memory.size() / PAGE_BYTES;
    let mut writer = staged.writer(ObjectKind::Memory, parent.clone(), pages).map_err(io::Error::other)?;
    let mut sink = Cancellable { sink: &mut writer, cancel };
    let parent = parent.as_deref().map(|image| image as &dyn Pages);
    export::export(&reader, &candidates, parent, &mut sink).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)
}

fn write_disk(staged: &Staged, parts: &Parts, cancel: &CancellationToken) -> io::Result<ObjectInfo> {
    let parent = parts.origin.as_ref().map(|origin| Arc::clone(&origin.disk));
    let pages = parts.disk.size() / PAGE_BYTES;
    let mut writer = staged.writer(ObjectKind::Disk, parent.clone(), pages).map_err(io::Error::other)?;
    let mut sink = Cancellable { sink: &mut writer, cancel };
    let parent = parent.as_deref().map(|image| image as &dyn Pages);
    parts.disk.export(parent, &mut sink).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)
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
