//! Pausing: from a running machine to a build and a record of it on stable storage.
//!
//! ```text
//! guest daemon comes to rest ─> guest syncs ─> vCPUs stop ─> device state ─> memory and disk are written ─> published ─> recorded
//!            2 s, best effort    by its memory    10 s           30 s           by their size                  the commit
//! ```
//!
//! When only the disk is kept, the guest freezes its root file system in place of the sync, so that nobody writes to it
//! after that, and no device state is saved. It is thawed when the pause does not come about, whatever became of the freeze;
//! should the host not do it, the guest does after some minutes.
//!
//! The VMM is kept, stopped, until the record is written: whatever fails before that, and whoever wants to use the
//! sandbox meanwhile, costs no more than setting the processors going again. After it, the record is the sandbox.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifacts::{LocalStore, Store};
use control::{Checkpoint, Goal, Keep, Launch, Status};
use jiff::Timestamp;
use model::{BuildId, EndReason, PausedSandbox};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vmm::Vm;

use crate::debug::IN_THE_WAY;
use crate::guest::Guest;
use crate::lifecycle::rules::{PauseOutcome, Refusal};
use crate::machine::Parts;
use crate::snapshot::{self, Capture, Content, Written};

/// A guest writes back at least this much a second, or its disk is stuck.
const SYNC_BYTES_PER_SECOND: u64 = 50 << 20;
/// Bounds of the time that a guest has for it.
const SYNC_TIMEOUT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// A store takes at least this much a second, or it is stuck.
const WRITE_BYTES_PER_SECOND: u64 = 10 << 20;
/// For a guest daemon to go on after a pause that did not come about. Its clients wait no longer than they would anyway.
const WAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a guest daemon that answers needs to thaw a file system, and how often it is asked: it holds up the whole guest.
const THAW_TIMEOUT: Duration = Duration::from_secs(10);
const THAWS: usize = 3;
/// What is added to that for whatever a store has to do once.
const WRITE_EXTRA: Duration = Duration::from_secs(30);
/// A pause that gave up, or whose VMM is gone, is over this soon, unless its disk is stuck.
const FINISH: Duration = Duration::from_secs(10);

/// The pauses of one sandbox, of which there is one at a time.
#[derive(Default)]
pub(crate) struct Pauses {
    /// Held while one is under way.
    under_way: tokio::sync::Mutex<()>,
    /// The build of one that was committed.
    committed: Cell<Option<BuildId>>,
    /// There are none for now: something else has the machine.
    kept_out: Cell<bool>,
}

impl Pauses {
    /// Runs a pause.
    pub(crate) async fn run(&self, pause: Pause, keep: Keep, cancel: CancellationToken) -> PauseOutcome {
        let _under_way = self.under_way.lock().await;
        if self.are_kept_out() {
            return PauseOutcome::Failed(IN_THE_WAY.into());
        }
        let outcome = pause.run(keep, cancel).await;
        if let PauseOutcome::Committed(build) = &outcome {
            self.committed.set(Some(build.clone()));
        }
        outcome
    }

    /// Makes a build of a machine that runs on, when no pause is under way any more.
    pub(crate) async fn checkpoint(
        &self,
        pause: Pause,
        wanted: Checkpoint,
        over: CancellationToken,
    ) -> Result<(), Refusal> {
        let _under_way = self.under_way.lock().await;
        let committed = self.committed.take();
        let paused = committed.is_some();
        self.committed.set(committed);
        if paused {
            return Err(Refusal::State("the sandbox was paused before its snapshot began"));
        }
        if self.are_kept_out() {
            return Err(Refusal::State(IN_THE_WAY));
        }
        pause.checkpoint(wanted, over).await
    }

    /// From now on there are none, unless one is under way: then nothing changes, and this is false.
    pub(crate) fn keep_out(&self) -> bool {
        self.under_way.try_lock().is_ok() && !self.kept_out.replace(true)
    }

    /// Whether there are none for now.
    pub(crate) fn are_kept_out(&self) -> bool {
        self.kept_out.get()
    }

    /// There may be some again.
    pub(crate) fn let_in(&self) {
        self.kept_out.set(false);
    }

    /// Waits for a pause that is under way when the sandbox is over, and takes it back if it was committed after the
    /// sandbox had been ended for another reason.
    pub(crate) async fn finish(&self, launch: &Launch, dir: &Path, why: &EndReason) {
        if tokio::time::timeout(FINISH, self.under_way.lock()).await.is_err() {
            tracing::warn!("a pause is still writing {FINISH:?} after the sandbox ended; it is left behind");
            return;
        }
        let Some(build) = self.committed.take() else { return };
        if !matches!(why, EndReason::Paused(_)) {
            // A record without its build would be a promise that nobody can keep: better a build that is collected later.
            match control::remove_paused(dir) {
                Ok(()) => take_back(&launch.store, &build),
                Err(error) => tracing::warn!(%error, "taking back the record of a pause"),
            }
        }
    }
}

/// Everything that a pause needs.
pub(crate) struct Pause {
    pub(crate) launch: Rc<Launch>,
    pub(crate) dir: PathBuf,
    pub(crate) guest: Guest,
    pub(crate) lifecycle_id: String,
    pub(crate) vm: Rc<dyn Vm>,
    pub(crate) parts: Arc<Parts>,
    pub(crate) status: watch::Receiver<Status>,
}

/// Why a pause did not come about.
pub(crate) enum Stop {
    Cancelled,
    Failed(String),
}

pub(crate) fn failed(what: &str) -> impl Fn(String) -> Stop {
    move |error| Stop::Failed(format!("{what}: {error}"))
}

impl Pause {
    /// Pauses the machine unless `cancel` comes before the commit. In every other outcome than success it runs on, or is
    /// lost.
    pub(crate) async fn run(self, keep: Keep, cancel: CancellationToken) -> PauseOutcome {
        let mut steps = Steps::default();
        let outcome = match self.rest(keep, &mut steps).await {
            Ok(()) => self.stopped(keep, &cancel, &mut steps).await,
            Err(error) => Err(Stop::Failed(error)),
        };
        let stop = match outcome {
            Ok(build) => {
                tracing::info!(%build, ?keep, "paused: {steps}");
                return PauseOutcome::Committed(build);
            }
            Err(stop) => stop,
        };
        if let Err(error) = self.let_go(keep).await {
            return PauseOutcome::Lost(format!("setting the machine going again after a pause: {error}"));
        }
        if !self.launch.goal.is_template()
            && let Err(error) = self.wake().await
        {
            tracing::warn!(error, "waking the guest daemon after a pause that did not come about");
        }
        match stop {
            Stop::Cancelled => PauseOutcome::Cancelled,
            Stop::Failed(why) => PauseOutcome::Failed(why),
        }
    }

    /// Has the guest come to rest and write out what it holds back. Nothing is stopped yet, apart from whoever writes to a
    /// disk that is to be kept alone.
    pub(crate) async fn rest(&self, keep: Keep, steps: &mut Steps) -> Result<(), String> {
        let rest = async {
            if let Err(error) = self.guest.prepare().await {
                tracing::warn!(error, "the guest daemon did not come to rest; it is stopped as it is");
            }
            steps.end("rest");
            if keep == Keep::Disk {
                let frozen = self.guest.freeze(sync_timeout(&self.launch)).await;
                steps.end("freeze");
                let Err(error) = frozen else { return Ok(()) };
                // As a power cut would then, with everything on the disk that was written by now.
                tracing::warn!(error, "the guest did not freeze its root file system: it syncs instead");
            }
            let synced = self.guest.sync(sync_timeout(&self.launch)).await;
            steps.end("sync");
            synced.map_err(|error| format!("the guest did not sync its file systems: {error}"))
        };
        self.unless_gone(rest).await
    }

    /// Sets going again what stands still for a build of that kind. What does not stand still is not changed.
    ///
    /// # Errors
    /// When the machine is lost.
    pub(crate) async fn let_go(&self, keep: Keep) -> Result<(), vmm::VmmError> {
        self.vm.resume().await?;
        if keep == Keep::Disk
            && let Err(error) = self.thaw().await
        {
            tracing::error!(error, "thawing the guest's root file system: it does so itself in some minutes");
        }
        Ok(())
    }

    /// Has the guest thaw its root file system. One that is not frozen stays as it is, and a freeze that is still under way
    /// is thawed when it comes about.
    async fn thaw(&self) -> Result<(), String> {
        let thaw = async {
            let mut outcome = self.guest.thaw(THAW_TIMEOUT).await;
            for _ in 1..THAWS {
                if outcome.is_err() {
                    outcome = self.guest.thaw(THAW_TIMEOUT).await;
                }
            }
            outcome
        };
        self.unless_gone(thaw).await
    }

    /// Sets the guest daemon going again.
    pub(crate) async fn wake(&self) -> Result<(), String> {
        let init = self.guest.init(&self.launch.spec, &self.lifecycle_id);
        let bounded = async {
            tokio::time::timeout(WAKE_TIMEOUT, init)
                .await
                .map_err(|_| format!("no answer within {WAKE_TIMEOUT:?}"))?
        };
        self.unless_gone(bounded).await
    }

    /// A guest whose VMM is gone is not waited for.
    async fn unless_gone(&self, work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        tokio::select! {
            done = work => done,
            exit = self.vm.wait() => Err(exit.to_string()),
        }
    }

    /// Stops the machine and writes it.
    async fn stopped(
        &self,
        keep: Keep,
        cancel: &CancellationToken,
        steps: &mut Steps,
    ) -> Result<BuildId, Stop> {
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let fail = |what: &'static str| move |error: vmm::VmmError| Stop::Failed(format!("{what}: {error}"));
        self.vm.pause().await.map_err(fail("stopping the machine"))?;
        steps.end("stop");
        let content = match keep {
            Keep::Everything => {
                let device_state =
                    self.vm.save_state().await.map_err(fail("saving the state of the devices"))?;
                steps.end("state");
                Content::Machine { vmm_pid: self.vm.pid(), device_state }
            }
            Keep::Disk => Content::Disk,
        };
        let build = match &self.launch.goal {
            Goal::Run | Goal::Debug => BuildId::random(),
            Goal::Snapshot(build) => build.clone(),
        };
        let written = self.write(build.clone(), content, cancel).await?;
        steps.end("write");
        let committed = self.commit(build, written, cancel).await;
        steps.end("commit");
        committed
    }

    /// Writes a build that is not published yet.
    pub(crate) async fn write(
        &self,
        build: BuildId,
        content: Content,
        cancel: &CancellationToken,
    ) -> Result<Written, Stop> {
        let capture = Capture {
            build,
            launch: Launch::clone(&self.launch),
            parts: Arc::clone(&self.parts),
            envd_version: self.status.borrow().envd_version.clone(),
            content,
            cancel: cancel.clone(),
        };
        let limit = write_timeout(&self.launch);
        let writing = tokio::task::spawn_blocking(move || snapshot::write(capture));
        let written = tokio::select! {
            written = writing => written.map_err(|error| Stop::Failed(format!("writing the build: {error}")))?,
            () = tokio::time::sleep(limit) => {
                cancel.cancel();
                return Err(Stop::Failed(format!("writing the build took longer than {limit:?}")));
            }
        };
        written.map_err(|error| stop(cancel, &error))
    }

    /// The point of no return: the build is published, then the record written.
    async fn commit(
        &self,
        build: BuildId,
        written: Written,
        cancel: &CancellationToken,
    ) -> Result<BuildId, Stop> {
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let Written { staged, manifest } = written;
        let record = (!self.launch.goal.is_template()).then(|| {
            let mut spec = self.launch.spec.clone();
            let status = self.status.borrow();
            spec.end_at = status.end_at;
            PausedSandbox {
                spec,
                build: build.clone(),
                paused_at: Timestamp::now(),
                envd_version: status.envd_version.clone(),
            }
        });
        let (dir, store) = (self.dir.clone(), self.launch.store.clone());
        let name = build.clone();
        let committed = tokio::task::spawn_blocking(move || {
            staged.publish(&manifest).map_err(|error| error.to_string())?;
            let Some(record) = record else { return Ok(()) };
            control::write_paused(&dir, &record).map_err(|error| {
                if control::remove_paused(&dir).is_ok() {
                    take_back(&store, &name);
                }
                format!("recording the pause in {}: {error}", dir.display())
            })
        });
        committed
            .await
            .map_err(|error| error.to_string())
            .and_then(|committed| committed)
            .map_err(failed("committing the pause"))?;
        Ok(build)
    }
}

/// How long each step of a pause took, for the log.
pub(crate) struct Steps {
    text: String,
    begun: Instant,
}

impl Default for Steps {
    fn default() -> Self {
        Self { text: String::new(), begun: Instant::now() }
    }
}

impl Steps {
    pub(crate) fn end(&mut self, name: &str) {
        let now = Instant::now();
        let millis = crate::millis(now - std::mem::replace(&mut self.begun, now));
        // Writing to a string does not fail.
        let _ = write!(self.text, "{name}={millis:.1} ");
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text.trim_end())
    }
}

fn stop(cancel: &CancellationToken, error: &io::Error) -> Stop {
    if cancel.is_cancelled() { Stop::Cancelled } else { Stop::Failed(format!("writing the build: {error}")) }
}

/// Deletes a build that counts for nothing.
pub(crate) fn take_back(store: &Path, build: &BuildId) {
    let removed = LocalStore::open(store).and_then(|store| store.remove(build));
    if let Err(error) = removed {
        tracing::warn!(%build, %error, "a build that counts for nothing could not be deleted");
    }
}

fn sync_timeout(launch: &Launch) -> Duration {
    let (least, most) = SYNC_TIMEOUT;
    Duration::from_secs(launch.spec.shape.memory.bytes() / SYNC_BYTES_PER_SECOND).clamp(least, most)
}

fn write_timeout(launch: &Launch) -> Duration {
    let bytes = launch.spec.shape.memory.bytes() + launch.spec.shape.disk.bytes();
    Duration::from_secs(bytes / WRITE_BYTES_PER_SECOND) + WRITE_EXTRA
}
