//! The supervisor's main function.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgroup::{Group, Removal};
use control::{
    CONTROL_FD, Checkpoint, Event, Goal, Keep, Launch, NETNS_FD, Phase, Prefetch, Standby, Start, Status,
};
use model::EndReason;
use network::guest as addresses;
use sys::inherited::take_fd;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;
use vmm::{Qemu, Vm};

use crate::control_server::Control;
use crate::guest::Guest;
use crate::lifecycle::rules::{PauseOutcome, Refusal, Terms};
use crate::lifecycle::{Answer, Command, Lifecycle, Timing, Work};
use crate::log_store::{self, LogStore};
use crate::machine::{Launched, Parts, Standing};
use crate::metrics::Samples;
use crate::origin::Unusable;
use crate::pause::{Pause, Pauses};
use crate::standby::{self, Assigned};
use crate::{console, control_server, endpoint, machine, metrics};

/// After a resume, and long enough for its first commands.
const FIRST_MOMENTS: Duration = Duration::from_secs(2);
/// Commands that wait for the lifecycle, which never waits itself.
const COMMAND_QUEUE: usize = 64;
/// How long a node may take to ask how it ended. One that listens already is told within microseconds.
const GOODBYE: Duration = Duration::from_millis(500);
/// Lines of the guest's log that are repeated when it did not start.
const LAST_LINES: usize = 8;
/// From handing the last event to the connection until it is in the socket.
const FLUSH: Duration = Duration::from_millis(5);

/// A supervisor could not start. Its sandbox never was.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The launch file.
    #[error(transparent)]
    Launch(#[from] control::LaunchError),
    /// A machine that stood by for nobody yet is gone.
    #[error("standing by: {0}")]
    Standby(String),
    /// Something the process needs from its parent or its host.
    #[error("{what}: {source}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> SupervisorError {
    move |source| SupervisorError::Host { what, source }
}

/// Runs the sandbox whose directory is `dir` until it ends, or stands by in it until it becomes a sandbox's. Inherits
/// [`CONTROL_FD`] and [`NETNS_FD`].
///
/// # Errors
/// When the sandbox could not even be attempted; everything later is told to the node as an event.
///
/// `preload` is the library that hands over a VMM's memory; without it no sandbox can go on from a build.
pub fn run(dir: &Path, preload: &'static [u8]) -> Result<(), SupervisorError> {
    // First: it measures the processor's clock from now on.
    let driver = Qemu::new();
    // There is a supervisor for every sandbox: what its threads free, each of them can use.
    sys::heap::share_between_threads();
    let control =
        UnixListener::from(take_fd(CONTROL_FD).map_err(host("taking the inherited control socket"))?);
    let netns = take_fd(NETNS_FD).map_err(host("taking the inherited network namespace"))?;
    let standby = Standby::read(dir).map_err(host("reading what to stand by for"))?;
    network::enter(netns.as_fd()).map_err(host("entering the sandbox's namespace"))?;
    drop::<OwnedFd>(netns);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(host("starting the runtime"))?;
    LocalSet::new().block_on(&runtime, async {
        let control =
            tokio::net::UnixListener::from_std(control).map_err(host("listening on the control socket"))?;
        let (launch, dir, standing) = match standby {
            None => (Launch::read(dir)?, dir.to_owned(), None),
            Some(standby) => {
                let assigned = standby::wait(&driver, standby, preload, &control).await;
                let Assigned { launch, dir, standing } = assigned.map_err(SupervisorError::Standby)?;
                (launch, dir, Some(standing))
            }
        };
        supervise(driver, preload, launch, dir, control, standing).await
    })
}

async fn supervise(
    driver: Qemu,
    preload: &'static [u8],
    launch: Launch,
    dir: PathBuf,
    control: tokio::net::UnixListener,
    standing: Option<Standing>,
) -> Result<(), SupervisorError> {
    let endpoint = tokio::net::TcpListener::bind((addresses::HOST_IP, addresses::ENDPOINT_PORT))
        .await
        .map_err(host("listening to the guest"))?;
    let logs = Rc::new(LogStore::create(&dir).map_err(host("making the log"))?);
    let samples = Rc::new(Samples::default());
    let (commands, queue) = mpsc::channel(COMMAND_QUEUE);
    let (status, watcher) = watch::channel(Status {
        id: launch.spec.id.clone(),
        phase: Phase::Starting,
        end_at: launch.spec.end_at,
        envd_version: String::new(),
        supervisor_pid: rustix::process::getpid().as_raw_nonzero().get(),
        vmm_pid: None,
        cgroup_forced_removals: 0,
    });
    let (ended, ended_watcher) = watch::channel(None);

    let told = CancellationToken::new();
    let door = Control {
        commands: commands.clone(),
        status: watcher.clone(),
        ended: ended_watcher,
        told: told.clone(),
        samples: Rc::clone(&samples),
        logs: Rc::clone(&logs),
    };
    spawn_local(control_server::run(control, door));
    spawn_local(endpoint::run(endpoint, commands.clone(), Rc::clone(&logs)));

    logs.say(model::LogLevel::Info, opening_line(&launch));
    let launch = Rc::new(launch);
    let machine = Rc::new(OnceCell::new());
    // Beside the lifecycle, which keeps the deadline and takes a kill while this is under way.
    let bring_up = BringUp {
        driver,
        preload,
        standing,
        launch: Rc::clone(&launch),
        dir: dir.clone(),
        commands: commands.clone(),
        logs: Rc::clone(&logs),
        machine: Rc::clone(&machine),
    };
    let launching = spawn_local(bring_up.run());
    let (pauses, over) = (Rc::new(Pauses::default()), CancellationToken::new());
    let tasks = Tasks {
        guest: Guest::new(addresses::GUEST_IP, &launch.spec),
        lifecycle_id: model::SandboxId::random().as_str().to_owned(),
        launch: Rc::clone(&launch),
        dir: dir.clone(),
        machine: Rc::clone(&machine),
        commands,
        status: watcher.clone(),
        pauses: Rc::clone(&pauses),
        over: over.clone(),
    };
    let why = live(&launch, tasks, queue, status, watcher, samples).await;
    // Nobody needs a snapshot that is being made now more than the sandbox's end.
    over.cancel();
    // A launch that is still under way is undone.
    launching.abort();
    let _ = launching.await;
    let mut forced = false;
    if let Some(machine) = machine.get() {
        let RunningMachine { vm, group, .. } = &**machine;
        vm.kill();
        vm.wait().await;
        pauses.finish(&launch, &dir, &why).await;
        if let Some(group) = group.take() {
            forced = remove(group, &launch).await;
        }
    }
    if matches!(why, EndReason::StartFailed(_)) {
        repeat_last_lines(&logs);
    }
    tracing::info!(?why, "ended");
    ended.send_replace(Some(Event::Ended { why, forced }));
    if tokio::time::timeout(GOODBYE, told.cancelled()).await.is_ok() {
        tokio::time::sleep(FLUSH).await;
    }
    Ok(())
}

fn opening_line(launch: &Launch) -> String {
    let shape = launch.spec.shape;
    match &launch.start {
        Start::Boot(_) => {
            format!("starting a machine with {} processors and {}", shape.vcpus, shape.memory)
        }
        Start::Reboot(reboot) => {
            let (build, why) = (&reboot.build, &reboot.why);
            format!(
                "booting from the disk of build {build} with {} processors and {}: {why}",
                shape.vcpus, shape.memory
            )
        }
        Start::Resume(build) => {
            format!("going on from build {build} with {} processors and {}", shape.vcpus, shape.memory)
        }
    }
}

/// Repeats the end of the guest's console where the node looks for last words: it says how far the guest came, and is
/// deleted with the sandbox.
fn repeat_last_lines(logs: &LogStore) {
    let newest = control::LogFilter { limit: Some(LAST_LINES), backward: true, ..Default::default() };
    for entry in log_store::query(logs.dir(), &newest).unwrap_or_default().iter().rev() {
        tracing::info!("{}: {}", entry.source.as_str(), entry.message);
    }
}

/// The sandbox's life from the launch of its VMM until it has to end.
async fn live(
    launch: &Launch,
    tasks: Tasks,
    queue: mpsc::Receiver<Command>,
    status: watch::Sender<Status>,
    mut watcher: watch::Receiver<Status>,
    samples: Rc<Samples>,
) -> EndReason {
    let sampled = tasks.guest.clone();
    let sampler = spawn_local(async move {
        if watcher.wait_for(|status| status.phase == Phase::Running).await.is_ok() {
            metrics::run(sampled, samples).await;
        }
    });
    let timing = Timing {
        ready: Duration::from_millis(launch.deadlines.ready_ms),
        init: Duration::from_millis(launch.deadlines.init_ms),
        lifetime: launch.spec.end_at.duration_since(launch.running_since),
    };
    let terms = Terms { on_timeout: launch.spec.on_timeout, template: launch.goal != Goal::Run };
    let why = Lifecycle::new(queue, status, timing, terms).run(tasks).await;
    sampler.abort();
    why
}

/// What the lifecycle has done for it.
struct Tasks {
    launch: Rc<Launch>,
    dir: PathBuf,
    guest: Guest,
    lifecycle_id: String,
    machine: Rc<OnceCell<Rc<RunningMachine>>>,
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    pauses: Rc<Pauses>,
    /// Cancelled when the sandbox has to end.
    over: CancellationToken,
}

impl Tasks {
    /// What a pause or a snapshot takes; `None` when there is no machine.
    fn to_pause(&self) -> Option<Pause> {
        self.machine.get().map(|machine| Pause {
            launch: Rc::clone(&self.launch),
            dir: self.dir.clone(),
            guest: self.guest.clone(),
            lifecycle_id: self.lifecycle_id.clone(),
            vm: Rc::clone(&machine.vm),
            parts: Arc::clone(&machine.parts),
            status: self.status.clone(),
        })
    }
}

// A lifecycle that is over does not need the answers.
impl Work for Tasks {
    fn initialise(&mut self) -> impl Future<Output = ()> + 'static {
        let (guest, launch, id) = (self.guest.clone(), Rc::clone(&self.launch), self.lifecycle_id.clone());
        let commands = self.commands.clone();
        async move {
            let outcome = guest.init(&launch.spec, &id).await;
            let taken = outcome.is_ok();
            let _ = commands.send(Command::Initialised(outcome)).await;
            // The way of the first one, through a machine with cold memory, took a while that its clock lacks.
            if taken && let Err(error) = guest.init(&launch.spec, &id).await {
                tracing::warn!(error, "setting the guest's clock once more");
            }
        }
    }

    fn pause(&mut self, keep: Option<Keep>, cancel: CancellationToken) -> impl Future<Output = ()> + 'static {
        let at_end = if self.launch.spec.auto_pause_memory { Keep::Everything } else { Keep::Disk };
        let keep = keep.unwrap_or(at_end);
        let (commands, pauses) = (self.commands.clone(), Rc::clone(&self.pauses));
        let pause = self.to_pause();
        async move {
            let outcome = match pause {
                Some(pause) => pauses.run(pause, keep, cancel).await,
                None => PauseOutcome::Failed("there is no machine".into()),
            };
            let _ = commands.send(Command::PauseOver(outcome)).await;
        }
    }

    fn snapshot(&mut self, wanted: Checkpoint, answer: Answer) -> impl Future<Output = ()> + 'static {
        let (pauses, pause, over) = (Rc::clone(&self.pauses), self.to_pause(), self.over.clone());
        async move {
            let made = match pause {
                Some(pause) => pauses.checkpoint(pause, wanted, over).await,
                None => Err(Refusal::State("there is no machine")),
            };
            if let Err(Refusal::Failed(error)) = &made {
                tracing::error!(error, "a snapshot failed");
            }
            // Whoever is gone does not need it.
            let _ = answer.send(made);
        }
    }
}

/// A VMM that was launched.
struct RunningMachine {
    vm: Rc<dyn Vm>,
    group: Cell<Option<Group>>,
    parts: Arc<Parts>,
    /// When its launch began.
    begun: Instant,
}

/// Launching the VMM.
struct BringUp {
    driver: Qemu,
    preload: &'static [u8],
    standing: Option<Standing>,
    launch: Rc<Launch>,
    dir: PathBuf,
    commands: mpsc::Sender<Command>,
    logs: Rc<LogStore>,
    machine: Rc<OnceCell<Rc<RunningMachine>>>,
}

impl BringUp {
    /// Launches the VMM and tells the lifecycle that it did, and when the VMM is gone, and how.
    async fn run(self) {
        let Self { driver, preload, standing, launch, dir, commands, logs, machine } = self;
        let prefetch = launch.prefetch;
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
                match go_on(&running, &commands).await {
                    Ok(()) => settle_later(&running, prefetch),
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

/// Sets a machine going that goes on from a build. Its guest daemon listens as it did when the build was made.
async fn go_on(machine: &RunningMachine, commands: &mpsc::Sender<Command>) -> Result<(), String> {
    let Some(origin) = &machine.parts.origin else { return Ok(()) };
    // One that boots says itself when it listens.
    let Some(saved) = &origin.saved else { return Ok(()) };
    let launched = Instant::now();
    if let Some(pages) = &machine.parts.pages {
        pages.prefetch(origin.working_set()).map_err(|error| error.to_string())?;
    }
    machine.vm.load_state(&saved.device_state).await.map_err(|error| error.to_string())?;
    let loaded = Instant::now();
    machine.vm.resume().await.map_err(|error| error.to_string())?;
    let millis = |part: Duration| part.as_secs_f64() * 1e3;
    tracing::info!(
        "machine resumed: launch={:.1} load={:.1} run={:.1}",
        millis(launched - machine.begun),
        millis(loaded - launched),
        millis(loaded.elapsed())
    );
    let _ = commands.send(Command::Ready(origin.manifest.envd_version.clone())).await;
    Ok(())
}

/// Removes the VMM's control group; whether that took force.
async fn remove(group: Group, launch: &Launch) -> bool {
    match group.remove(launch.spec.id.as_str(), &CancellationToken::new()).await {
        Ok(Removal::Clean) => false,
        Ok(Removal::Forced { .. }) => true,
        Err(error) => {
            tracing::error!(%error, "removing the VMM's control group failed; the node tries again");
            true
        }
    }
}
