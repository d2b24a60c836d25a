//! Making a build of a machine that runs on.
//!
//! ```text
//! guest daemon comes to rest ─> guest syncs ─> room is made ─> vCPUs stop ─> device state ─> kept ─> vCPUs run ─> written ─> published
//! ```
//!
//! For the disk alone it is the guest's root file system that stands still, frozen in place of the sync and thawed as soon as
//! the disk is kept; the virtual processors run. Everything else is the same.
//!
//! While something stands still nothing is written to a disk and nothing depends on one: changed memory is
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
use build::{Manifest, ObjectKind};
use control::{Checkpoint, Keep};
use disk::Frozen;
use guest_memory::kept::Kept;
use guest_memory::{MemfdReader, Room};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::rules::Refusal;
use crate::machine::{DISK_FILE, Parent, Parts};
use crate::pause::{Pause, Steps, Stop, failed, take_back};
use crate::snapshot::{Content, Moment, Running, Written};

/// For copying memory: far more than it takes, and far less than a guest's clients wait.
const KEEP_TIMEOUT: Duration = Duration::from_secs(20);
/// What is likely to change between looking and stopping, in pages, beside an eighth of what has changed.
const MORE_PAGES: u64 = 2048;

impl Pause {
    /// Makes a build, which is on stable storage in the store when this returns. Whatever happens, the machine runs on, or is
    /// gone. Gives up when the sandbox is `over`.
    pub(crate) async fn checkpoint(self, wanted: Checkpoint, over: CancellationToken) -> Result<(), Refusal> {
        // One that takes too long is cancelled itself, and nothing else is.
        self.make(wanted, &over.child_token()).await.map_err(|stop| match stop {
            // Whatever it failed of then.
            Stop::Failed(why) if !over.is_cancelled() => Refusal::Failed(why),
            _ => Refusal::State("the sandbox ended before its snapshot was written"),
        })
    }

    async fn make(&self, wanted: Checkpoint, cancel: &CancellationToken) -> Result<(), Stop> {
        let Checkpoint { build, keep } = wanted;
        let mut steps = Steps::default();
        let moment = self.moment(keep, cancel, &mut steps).await;
        // The daemon goes on while the build is written.
        let woken = async {
            if let Err(error) = self.wake().await {
                tracing::warn!(error, "waking the guest daemon after a snapshot");
            }
        };
        let written = async {
            let moment = moment?;
            let disk = Arc::clone(&moment.disk);
            let written = self.write(build.clone(), Content::Kept(moment), cancel).await?;
            steps.end("write");
            self.publish(written, disk, cancel).await?;
            steps.end("publish");
            Ok(())
        };
        let ((), made) = tokio::join!(woken, written);
        if made.is_ok() {
            tracing::info!(%build, ?keep, "snapshot made: {steps}");
        }
        made
    }

    /// Keeps what the machine is, and has it go on.
    async fn moment(
        &self,
        keep: Keep,
        cancel: &CancellationToken,
        steps: &mut Steps,
    ) -> Result<Moment, Stop> {
        // Before anything is stopped for it.
        let dir = self.dir.clone();
        let cow = blocking(move || private_file(&dir)).await;
        let cow = cow.map_err(failed("making room for a snapshot"))?;
        let kept = self.still(keep, cow, cancel, steps).await;
        if let Err(error) = self.let_go(keep).await {
            self.vm.kill();
            return Err(Stop::Failed(format!("setting the machine going again after a snapshot: {error}")));
        }
        steps.end("run");
        let (moment, since) = kept?;
        let what = match keep {
            Keep::Everything => "the machine",
            Keep::Disk => "the root file system",
        };
        tracing::info!("{what} stood still for {:.1} ms", crate::millis(since.elapsed()));
        Ok(moment)
    }

    /// Stops what changes while it is kept, and keeps it; says since when it stands still. Leaves it so.
    async fn still(
        &self,
        keep: Keep,
        cow: File,
        cancel: &CancellationToken,
        steps: &mut Steps,
    ) -> Result<(Moment, Instant), Stop> {
        self.rest(keep, steps).await.map_err(Stop::Failed)?;
        let room = match keep {
            Keep::Everything => Some(self.room(steps).await?),
            Keep::Disk => None,
        };
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let since = Instant::now();
        let stopped = match room {
            Some(room) => Some((room, self.stop(steps).await?)),
            None => None,
        };
        let (parts, pid) = (Arc::clone(&self.parts), self.vm.pid());
        let kept = blocking(move || keep_moment(&parts, pid, stopped, cow));
        let kept = tokio::time::timeout(KEEP_TIMEOUT, kept).await;
        let kept =
            kept.map_err(|_| Stop::Failed(format!("keeping the machine took longer than {KEEP_TIMEOUT:?}")))?;
        let moment = kept.map_err(failed("keeping memory and disk"))?;
        steps.end("keep");
        Ok((moment, since))
    }

    /// Makes room for the memory, so that the processors need not wait for it.
    async fn room(&self, steps: &mut Steps) -> Result<Room, Stop> {
        let (parts, pid) = (Arc::clone(&self.parts), self.vm.pid());
        let room = blocking(move || {
            let changed: u64 = parts.changed(pid)?.iter().map(|range| range.end - range.start).sum();
            Room::new(changed + changed / 8 + MORE_PAGES)
        });
        let room = room.await.map_err(failed("making room for a snapshot"))?;
        steps.end("room");
        Ok(room)
    }

    /// Stops the processors; the state of the devices then.
    async fn stop(&self, steps: &mut Steps) -> Result<Vec<u8>, Stop> {
        let fail = |what: &'static str| move |error: vmm::VmmError| failed(what)(error.to_string());
        self.vm.pause().await.map_err(fail("stopping the machine"))?;
        steps.end("stop");
        let device_state = self.vm.save_state().await.map_err(fail("saving the state of the devices"))?;
        steps.end("state");
        Ok(device_state)
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
            staged.publish(&manifest).map_err(io::Error::other)?;
            // Whoever keeps builds relies on it: what the sandbox becomes next is a difference from this one.
            rebase(&parts, &store, &manifest, &disk).inspect_err(|_| take_back(&store, &manifest.id))
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

/// Where the disk is written from then on.
fn private_file(dir: &Path) -> io::Result<File> {
    let path = dir.join(DISK_FILE);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Keeps the disk and, of a machine that was stopped, the memory that belongs to the state of its devices.
fn keep_moment(
    parts: &Parts,
    vmm_pid: i32,
    stopped: Option<(Room, Vec<u8>)>,
    cow: File,
) -> io::Result<Moment> {
    let running = |(room, device_state)| {
        let changed = parts.changed(vmm_pid)?;
        let memory = Kept::copy(&MemfdReader::new(&parts.memory)?, &changed, room)?;
        Ok::<_, io::Error>(Running { memory, device_state })
    };
    let running = stopped.map(running).transpose()?;
    // Last: a disk that has a new layer and no snapshot is right, and slower.
    Ok(Moment { running, disk: Arc::new(parts.disk.freeze(cow)?) })
}

/// Memory that is not in the build stays a difference from what it was one from before.
fn rebase(parts: &Parts, store: &Path, manifest: &Manifest, frozen: &Frozen) -> io::Result<()> {
    let (store, build) = (LocalStore::open(store).map_err(io::Error::other)?, manifest.id.clone());
    let open = |kind| Image::open(&store, &build, kind).map(Arc::new).map_err(io::Error::other);
    let memory = match &manifest.memory {
        Some(_) => Some(open(ObjectKind::Memory)?),
        None => parts.parent().and_then(|parent| parent.memory),
    };
    let disk = open(ObjectKind::Disk)?;
    parts.rebase(Parent { build, memory, disk }, frozen)
}
