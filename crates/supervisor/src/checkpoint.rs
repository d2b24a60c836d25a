//! Making a build of a machine that runs on.
//!
//! ```text
//! guest daemon comes to rest ─> guest syncs ─> room is made ─> vCPUs stop ─> device state ─> kept ─> vCPUs run ─> written ─> published
//! ```
//!
//! While the virtual processors stand still nothing is written to a disk and nothing depends on one: changed memory is
//! copied to memory that is there already, and what was written of the disk becomes a layer that is not written any more.
//! Copying was chosen over protecting the pages and copying each before it changes: the kernel resolves the protection
//! that tells which pages change by itself, which costs a running guest nothing, and a mapping cannot have another kind
//! beside it. The price is memory for what changed, until it is written.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifacts::{Image, LocalStore};
use build::ObjectKind;
use control::Keep;
use disk::Frozen;
use guest_memory::kept::Kept;
use guest_memory::{MemfdReader, Room};
use model::BuildId;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::rules::Refusal;
use crate::machine::{DISK_FILE, Parent, Parts};
use crate::pause::{Pause, Steps, Stop, failed, take_back};
use crate::snapshot::{Content, Written};

/// For copying memory: far more than it takes, and far less than a guest's clients wait.
const KEEP_TIMEOUT: Duration = Duration::from_secs(20);
/// What is likely to change between looking and stopping, in pages, beside an eighth of what has changed.
const MORE_PAGES: u64 = 2048;

/// What is made before the processors stop, so that they need not wait for it.
struct Ready {
    room: Room,
    /// Where the disk is written from then on.
    cow: File,
}

/// The machine at one moment.
struct Moment {
    device_state: Vec<u8>,
    memory: Kept,
    disk: Arc<Frozen>,
}

impl Pause {
    /// Makes the build `build`, which is on stable storage in the store when this returns. Whatever happens, the machine runs
    /// on, or is gone.
    pub(crate) async fn checkpoint(self, build: BuildId, cancel: CancellationToken) -> Result<(), Refusal> {
        self.make(build, &cancel).await.map_err(|stop| match stop {
            Stop::Cancelled => Refusal::State("the sandbox ended before its snapshot was written"),
            Stop::Failed(why) => Refusal::Failed(why),
        })
    }

    async fn make(&self, build: BuildId, cancel: &CancellationToken) -> Result<(), Stop> {
        let mut steps = Steps::default();
        let rested = self.rest(Keep::Everything, &mut steps).await.map_err(Stop::Failed);
        let moment = match rested {
            Ok(()) => self.moment(cancel, &mut steps).await,
            Err(stop) => Err(stop),
        };
        // The daemon goes on while the build is written.
        let woken = async {
            if let Err(error) = self.wake().await {
                tracing::warn!(error, "waking the guest daemon after a snapshot");
            }
        };
        let written = async {
            let Moment { device_state, memory, disk } = moment?;
            let content = Content::Kept { memory, disk: Arc::clone(&disk), device_state };
            let written = self.write(build.clone(), content, cancel).await?;
            steps.end("write");
            self.publish(written, disk, cancel).await?;
            steps.end("publish");
            Ok(())
        };
        let ((), made) = tokio::join!(woken, written);
        if made.is_ok() {
            tracing::info!(%build, "snapshot made: {steps}");
        }
        made
    }

    /// Stops the machine for as long as it takes to keep what it is.
    async fn moment(&self, cancel: &CancellationToken, steps: &mut Steps) -> Result<Moment, Stop> {
        let (parts, dir, pid) = (Arc::clone(&self.parts), self.dir.clone(), self.vm.pid());
        let ready = blocking(move || ready(&parts, &dir, pid)).await;
        let ready = ready.map_err(failed("making room for a snapshot"))?;
        steps.end("room");
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let begun = Instant::now();
        let kept = self.keep(ready, steps).await;
        // Also when it was never stopped: then it changes nothing.
        if let Err(error) = self.vm.resume().await {
            self.vm.kill();
            return Err(Stop::Failed(format!("setting the machine going again after a snapshot: {error}")));
        }
        steps.end("run");
        tracing::info!("the machine stood still for {:.1} ms", begun.elapsed().as_secs_f64() * 1e3);
        kept
    }

    async fn keep(&self, ready: Ready, steps: &mut Steps) -> Result<Moment, Stop> {
        let fail = |what: &'static str| move |error: vmm::VmmError| failed(what)(error.to_string());
        self.vm.pause().await.map_err(fail("stopping the machine"))?;
        steps.end("stop");
        let device_state = self.vm.save_state().await.map_err(fail("saving the state of the devices"))?;
        steps.end("state");
        let (parts, pid) = (Arc::clone(&self.parts), self.vm.pid());
        let kept = tokio::time::timeout(KEEP_TIMEOUT, blocking(move || keep(&parts, pid, ready))).await;
        let kept =
            kept.map_err(|_| Stop::Failed(format!("keeping the memory took longer than {KEEP_TIMEOUT:?}")))?;
        let (memory, disk) = kept.map_err(failed("keeping memory and disk"))?;
        steps.end("keep");
        Ok(Moment { device_state, memory, disk: Arc::new(disk) })
    }

    /// Makes the build appear in the store. The next one is a difference from it.
    async fn publish(
        &self,
        written: Written,
        disk: Arc<Frozen>,
        cancel: &CancellationToken,
    ) -> Result<(), Stop> {
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let (parts, store) = (Arc::clone(&self.parts), self.launch.store.clone());
        let published = blocking(move || {
            let Written { staged, manifest } = written;
            let build = manifest.id.clone();
            staged.publish(&manifest).map_err(io::Error::other)?;
            // Whoever keeps builds relies on it: what the sandbox becomes next is a difference from this one.
            rebase(&parts, &store, build.clone(), &disk).inspect_err(|_| take_back(&store, &build))
        });
        published.await.map_err(failed("publishing the build"))
    }
}

/// Runs `work` where it may wait for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
}

fn ready(parts: &Parts, dir: &Path, vmm_pid: i32) -> io::Result<Ready> {
    let path = dir.join(DISK_FILE);
    let cow = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    let changed: u64 = parts.changed(vmm_pid)?.iter().map(|range| range.end - range.start).sum();
    Ok(Ready { room: Room::new(changed + changed / 8 + MORE_PAGES)?, cow })
}

fn keep(parts: &Parts, vmm_pid: i32, ready: Ready) -> io::Result<(Kept, Frozen)> {
    let changed = parts.changed(vmm_pid)?;
    let memory = Kept::copy(&MemfdReader::new(&parts.memory)?, &changed, ready.room)?;
    // Last: a disk that has a new layer and no snapshot is right, and slower.
    Ok((memory, parts.disk.freeze(ready.cow)?))
}

fn rebase(parts: &Parts, store: &Path, build: BuildId, frozen: &Frozen) -> io::Result<()> {
    let store = LocalStore::open(store).map_err(io::Error::other)?;
    let open = |kind| Image::open(&store, &build, kind).map(Arc::new).map_err(io::Error::other);
    let (memory, disk) = (open(ObjectKind::Memory)?, open(ObjectKind::Disk)?);
    parts.rebase(Parent { build, memory: Some(memory), disk }, frozen)
}
