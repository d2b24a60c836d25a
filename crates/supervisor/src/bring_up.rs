//! From the launch of a sandbox's VMM until it is gone.

use std::cell::{Cell, OnceCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgroup::Group;
use control::{Goal, Launch, Prefetch};
use model::EndReason;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use vmm::{Qemu, Vm};

use crate::lifecycle::Command;
use crate::log_store::LogStore;
use crate::machine::{Launched, Parts, Standing};
use crate::millis;
use crate::origin::Unusable;
use crate::{console, machine};

/// After a resume, and long enough for its first commands.
const FIRST_MOMENTS: Duration = Duration::from_secs(2);

/// A VMM that was launched.
pub(crate) struct RunningMachine {
    pub(crate) vm: Rc<dyn Vm>,
    pub(crate) group: Cell<Option<Group>>,
    pub(crate) parts: Arc<Parts>,
    /// When its launch began.
    begun: Instant,
}

/// Launching the VMM.
pub(crate) struct BringUp {
    pub(crate) driver: Qemu,
    pub(crate) preload: &'static [u8],
    pub(crate) standing: Option<Standing>,
    pub(crate) launch: Rc<Launch>,
    pub(crate) dir: PathBuf,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) logs: Rc<LogStore>,
    pub(crate) machine: Rc<OnceCell<Rc<RunningMachine>>>,
}

impl BringUp {
    /// Launches the VMM and tells the lifecycle that it did, and when the VMM is gone, and how.
    pub(crate) async fn run(self) {
        let Self { driver, preload, standing, launch, dir, commands, logs, machine } = self;
        let begun = Instant::now();
        let command = match machine::launch(&driver, &launch, &dir, preload, standing).await {
            Ok(Launched { vm, console, group, parts }) => {
                spawn_local(console::run(console, logs));
                let vm: Rc<dyn Vm> = Rc::from(vm);
                let running = RunningMachine {
                    vm: Rc::clone(&vm),
                    group: Cell::new(Some(group)),
                    parts: Arc::new(parts),
                    begun,
                };
                let running = Rc::clone(machine.get_or_init(|| Rc::new(running)));
                // A lifecycle that is over does not need to know.
                let _ = commands.send(Command::Launched(vm.pid())).await;
                match go_on(&running, &launch, &commands).await {
                    Ok(()) => settle_later(&running, launch.prefetch),
                    Err(error) => {
                        let lost = running.parts.lost.get().cloned();
                        let command = match lost {
                            Some(why) => Command::VmmGone(EndReason::MemoryUnusable(why)),
                            None => Command::LaunchFailed(error),
                        };
                        let _ = commands.send(command).await;
                    }
                }
                let exit = vm.wait().await;
                let why = match running.parts.lost.get() {
                    Some(why) => EndReason::MemoryUnusable(why.clone()),
                    None if exit.is_clean() => EndReason::GuestExited,
                    None => EndReason::VmmDied(exit.to_string()),
                };
                Command::VmmGone(why)
            }
            Err(Unusable::Memory(why)) => Command::VmmGone(EndReason::MemoryUnusable(why)),
            Err(Unusable::Other(error)) => Command::LaunchFailed(error),
        };
        let _ = commands.send(command).await;
    }
}

/// Notes what the machine touched in its first moments, when they are over, and brings the rest if it is wanted.
fn settle_later(machine: &Rc<RunningMachine>, prefetch: Prefetch) {
    let parts = Arc::downgrade(&machine.parts);
    spawn_local(async move {
        tokio::time::sleep(FIRST_MOMENTS).await;
        if let Some(parts) = parts.upgrade() {
            parts.settle();
            if prefetch == Prefetch::Everything
                && let Some(pages) = &parts.pages
                && let Err(error) = pages.prefetch(std::iter::once(0..u64::MAX).collect())
            {
                tracing::warn!(%error, "prefetching the rest of the memory");
            }
        }
        // Most of what was needed to get here is not needed again, and there is a supervisor for every sandbox.
        if let Err(error) = sys::text::forget() {
            tracing::warn!(%error, "giving back memory of code");
        }
    });
}

/// Sets a machine going that goes on from a build, unless it is held for a debugger, which does that. Its guest daemon
/// listens as it did when the build was made.
async fn go_on(
    machine: &RunningMachine,
    launch: &Launch,
    commands: &mpsc::Sender<Command>,
) -> Result<(), String> {
    let Some(origin) = &machine.parts.origin else { return Ok(()) };
    // One that boots says itself when it listens.
    let Some(saved) = &origin.saved else { return Ok(()) };
    let launched = Instant::now();
    if launch.prefetch != Prefetch::Nothing
        && let Some(pages) = &machine.parts.pages
    {
        pages.prefetch(origin.working_set()).map_err(|error| error.to_string())?;
    }
    machine.vm.load_state(&saved.device_state).await.map_err(|error| error.to_string())?;
    let loaded = Instant::now();
    let held = launch.goal == Goal::Debug;
    if !held {
        machine.vm.resume().await.map_err(|error| error.to_string())?;
    }
    tracing::info!(
        held,
        "machine resumed: launch={:.1} load={:.1} run={:.1}",
        millis(launched - machine.begun),
        millis(loaded - launched),
        millis(loaded.elapsed())
    );
    let _ = commands.send(Command::Ready(origin.manifest.envd_version.clone())).await;
    Ok(())
}
