//! The supervisor's main function.

use std::cell::OnceCell;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cgroup::{Group, Removal};
use control::{CONTROL_FD, Event, Launch, NETNS_FD, Phase, Standby, Start, Status};
use model::EndReason;
use network::guest as addresses;
use sys::inherited::take_fd;
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::sync::CancellationToken;
use vmm::Qemu;

use crate::bring_up::{BringUp, RunningMachine};
use crate::control_server::Control;
use crate::guest::Guest;
use crate::lifecycle::rules::Terms;
use crate::lifecycle::{Command, Lifecycle, Timing};
use crate::log_store::{self, LogStore};
use crate::machine::Standing;
use crate::metrics::Samples;
use crate::pause::Pauses;
use crate::standby::{self, Assigned};
use crate::tasks::Tasks;
use crate::{control_server, endpoint, metrics};

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
    let machine = Rc::new(OnceCell::new());
    let pauses = Rc::new(Pauses::default());
    let launch = Rc::new(launch);
    let door = Control {
        commands: commands.clone(),
        status: watcher.clone(),
        ended: ended_watcher,
        told: told.clone(),
        samples: Rc::clone(&samples),
        logs: Rc::clone(&logs),
        machine: Rc::clone(&machine),
        pauses: Rc::clone(&pauses),
        dir: dir.clone(),
        launch: Rc::clone(&launch),
    };
    spawn_local(control_server::run(control, door));
    spawn_local(endpoint::run(endpoint, commands.clone(), Rc::clone(&logs)));

    logs.say(model::LogLevel::Info, opening_line(&launch));
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
    let over = CancellationToken::new();
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
    let limit = |millis| (!launch.skip_envd_wait).then(|| Duration::from_millis(millis));
    let timing = Timing {
        ready: limit(launch.deadlines.ready_ms),
        init: limit(launch.deadlines.init_ms),
        lifetime: launch.spec.end_at.duration_since(launch.running_since),
    };
    let terms = Terms { on_timeout: launch.spec.on_timeout, template: launch.goal.is_template() };
    let why = Lifecycle::new(queue, status, timing, terms).run(tasks).await;
    sampler.abort();
    why
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
