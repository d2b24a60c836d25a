//! The supervisor's main function.

use std::cell::OnceCell;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cgroup::{Group, Removal};
use control::{CONTROL_FD, Event, Launch, NETNS_FD, Phase, Status};
use model::EndReason;
use network::guest as addresses;
use sys::inherited::take_fd;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;
use vmm::{Qemu, Vm};

use crate::control_server::Control;
use crate::guest::Guest;
use crate::lifecycle::{Command, Lifecycle, Timing};
use crate::log_store::{self, LogStore};
use crate::machine::Launched;
use crate::metrics::Samples;
use crate::{console, control_server, endpoint, machine, metrics};

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

/// Runs the sandbox whose directory is `dir` until it ends. Inherits [`CONTROL_FD`] and [`NETNS_FD`].
///
/// # Errors
/// When the sandbox could not even be attempted; everything later is told to the node as an event.
pub fn run(dir: &Path) -> Result<(), SupervisorError> {
    // First: it measures the processor's clock from now on.
    let driver = Qemu::new();
    // There is a supervisor for every sandbox: what its threads free, each of them can use.
    sys::heap::share_between_threads();
    let control =
        UnixListener::from(take_fd(CONTROL_FD).map_err(host("taking the inherited control socket"))?);
    let netns = take_fd(NETNS_FD).map_err(host("taking the inherited network namespace"))?;
    let launch = Launch::read(dir)?;
    network::enter(netns.as_fd()).map_err(host("entering the sandbox's namespace"))?;
    drop::<OwnedFd>(netns);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(host("starting the runtime"))?;
    LocalSet::new().block_on(&runtime, supervise(driver, launch, dir.to_owned(), control))
}

async fn supervise(
    driver: Qemu,
    launch: Launch,
    dir: PathBuf,
    control: UnixListener,
) -> Result<(), SupervisorError> {
    let control =
        tokio::net::UnixListener::from_std(control).map_err(host("listening on the control socket"))?;
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

    let shape = launch.spec.shape;
    let start = format!("starting a machine with {} processors and {}", shape.vcpus, shape.memory);
    logs.say(model::LogLevel::Info, start);
    let launch = Rc::new(launch);
    let machine = Rc::new(OnceCell::new());
    // Beside the lifecycle, which keeps the deadline and takes a kill while this is under way.
    let launching = spawn_local(bring_up(
        driver,
        Rc::clone(&launch),
        dir,
        commands.clone(),
        Rc::clone(&logs),
        Rc::clone(&machine),
    ));
    let why = live(&launch, queue, commands, status, watcher, samples).await;
    // A launch that is still under way is undone.
    launching.abort();
    let _ = launching.await;
    let forced = match Rc::into_inner(machine).and_then(OnceCell::into_inner) {
        Some(RunningMachine { vm, group }) => {
            vm.kill();
            vm.wait().await;
            remove(group, &launch).await
        }
        None => false,
    };
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
    queue: mpsc::Receiver<Command>,
    commands: mpsc::Sender<Command>,
    status: watch::Sender<Status>,
    mut watcher: watch::Receiver<Status>,
    samples: Rc<Samples>,
) -> EndReason {
    let guest = Guest::new(addresses::GUEST_IP, &launch.spec);
    let sampled = guest.clone();
    let sampler = spawn_local(async move {
        if watcher.wait_for(|status| status.phase == Phase::Running).await.is_ok() {
            metrics::run(sampled, samples).await;
        }
    });
    let timing = Timing {
        ready: Duration::from_millis(launch.deadlines.ready_ms),
        init: Duration::from_millis(launch.deadlines.init_ms),
        lifetime: launch.spec.end_at.duration_since(launch.spec.started_at),
    };
    let spec = launch.spec.clone();
    let initialise = || async move {
        let lifecycle_id = model::SandboxId::random();
        let outcome = guest.init(&spec, lifecycle_id.as_str()).await;
        // A lifecycle that is over does not need the answer.
        let _ = commands.send(Command::Initialised(outcome)).await;
    };
    let why = Lifecycle::new(queue, status, timing).run(initialise).await;
    sampler.abort();
    why
}

/// A VMM that was launched.
struct RunningMachine {
    vm: Rc<dyn Vm>,
    group: Group,
}

/// Launches the VMM and tells the lifecycle that it did, and when the VMM is gone, and how.
async fn bring_up(
    driver: Qemu,
    launch: Rc<Launch>,
    dir: PathBuf,
    commands: mpsc::Sender<Command>,
    logs: Rc<LogStore>,
    machine: Rc<OnceCell<RunningMachine>>,
) {
    let command = match machine::launch(&driver, &launch, &dir).await {
        Ok(Launched { vm, console, group }) => {
            spawn_local(console::run(console, logs));
            let vm: Rc<dyn Vm> = Rc::from(vm);
            machine.get_or_init(|| RunningMachine { vm: Rc::clone(&vm), group });
            // A lifecycle that is over does not need to know.
            let _ = commands.send(Command::Launched(vm.pid())).await;
            let exit = vm.wait().await;
            let why =
                if exit.is_clean() { EndReason::GuestExited } else { EndReason::VmmDied(exit.to_string()) };
            Command::VmmGone(why)
        }
        Err(error) => Command::LaunchFailed(error),
    };
    let _ = commands.send(command).await;
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
