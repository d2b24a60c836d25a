//! Where machines of one kind are started, one after the other, in a workshop.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use artifacts::LocalStore;
use async_trait::async_trait;
use axum::Router;
use build::Manifest;
use control::{Accel, BuildFiles, Prefetch};
use model::{BuildId, MiB, PausedSandbox, SandboxId, SandboxSpec, Shape, TeamId, TemplateId, WayBack};
use network::Dialer;
use node::{Held, Node, NodeConfig, NodeMetrics};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::image;
use super::machine::Machine;
use super::port::{self, Wanted};
use crate::Outcome;
use crate::builds::{BASE, LocalBuilds, accel_of, control_accel};
use crate::reach::Reach;
use crate::state::StateDir;
use crate::workshop::Workshop;

/// Whose the machines are: of the operator, who has no team.
const OPERATOR: &str = "operator";
/// Longer than anybody works on one.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// What a machine needs beside the guest's memory, generously.
const OVERHEAD: MiB = MiB(1024);
/// A guest boots within this time, without hardware virtualization, too.
const READY: Duration = Duration::from_secs(50);
/// And takes its identity within this.
const INIT: Duration = Duration::from_secs(20);
/// The name of a disk that is made of a directory, among those of sandboxes.
const DISK: &str = "disk.ext4";
/// What shells do with the status of what a signal ended.
const INTERRUPTED: u8 = 130;

/// What machines are made of.
pub(super) enum Source {
    /// They go on from it.
    Build(Box<Manifest>),
    /// They boot from a disk that is made of it.
    Directory(Box<Directory>),
}

/// Files that become a disk.
#[derive(Debug, Clone)]
pub(super) enum Tree {
    /// In a directory.
    Directory(PathBuf),
    /// In the image of this name.
    Image(String),
}

/// A directory and what boots it.
pub(super) struct Directory {
    /// What it is called meanwhile.
    pub(super) id: BuildId,
    pub(super) tree: Tree,
    pub(super) kernel: PathBuf,
    pub(super) initrd: PathBuf,
    pub(super) shape: Shape,
    pub(super) accel: Accel,
}

impl Source {
    fn shape(&self) -> Shape {
        match self {
            Self::Build(manifest) => manifest.shape,
            Self::Directory(directory) => directory.shape,
        }
    }

    fn accel(&self) -> Result<Accel, String> {
        match self {
            Self::Directory(directory) => Ok(directory.accel),
            Self::Build(manifest) => Ok(control_accel(accel_of(manifest)?)),
        }
    }
}

/// How they are started.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) prefetch: Prefetch,
    pub(super) way: WayBack,
    /// The number of the workshop, if it has to be that one.
    pub(super) workshop: Option<u16>,
    /// The VMM, in place of the usual one.
    pub(super) vmm: Option<PathBuf>,
    /// Name servers of those that boot.
    pub(super) dns: Vec<Ipv4Addr>,
    /// Whether they reach the internet.
    pub(super) egress: bool,
}

/// Does something at a workbench in a workshop of its own. Whatever it does, nothing of the workshop is left afterwards.
pub(super) fn on_a_workbench(
    state: &StateDir,
    source: Source,
    settings: Settings,
    work: impl AsyncFnOnce(&Workbench) -> Outcome,
) -> Outcome {
    let mut workshop = Workshop::open(state, settings.workshop)?;
    // Ends before the workshop: nothing is made any more when that is removed.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("starting the runtime: {error}"))?;
    let outcome = runtime.block_on(async {
        let bench = Workbench::new(state, &workshop, source, settings).await?;
        tokio::select! {
            outcome = work(&bench) => outcome,
            why = workshop.abandoned() => Err(why),
        }
    });
    // What is typed is waited for on a thread that cannot be interrupted.
    runtime.shutdown_background();
    outcome
}

/// Does something until it is done or somebody interrupts it.
pub(super) async fn interruptible(work: impl Future<Output = Outcome>) -> Outcome {
    let failed = |error: io::Error| format!("listening to signals: {error}");
    let mut interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut ends = signal(SignalKind::terminate()).map_err(failed)?;
    tokio::select! {
        outcome = work => outcome,
        _ = interrupts.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = ends.recv() => Err("terminated".into()),
    }
}

/// A node by itself, for machines that are made of the same.
pub(super) struct Workbench {
    pub(super) node: Node,
    pub(super) store: PathBuf,
    source: Source,
    /// Where the disk is that was made of a directory.
    disk: PathBuf,
    settings: Settings,
    pub(super) paused: watch::Receiver<Option<PausedSandbox>>,
    pub(super) dialer: Dialer,
}

impl Workbench {
    async fn new(
        state: &StateDir,
        workshop: &Workshop,
        source: Source,
        settings: Settings,
    ) -> Result<Self, String> {
        let config = NodeConfig {
            sandboxes: workshop.sandboxes(),
            store: state.store(),
            binary: "/proc/self/exe".into(),
            tag: workshop.tag(),
            accel: source.accel()?,
            vmm: settings.vmm.clone(),
            prefetch: settings.prefetch,
            dns: settings.dns.clone(),
            max_sandboxes: 1,
            memory: MiB(source.shape().memory.0.saturating_add(OVERHEAD.0)),
            concurrent_starts: 1,
            start_queue: 1,
            start_patience: crate::server::START_PATIENCE,
            slots_ahead: 1,
            machines_ahead: 0,
            ready: READY,
            init: INIT,
        };
        let (told, paused) = watch::channel(None);
        let builds = Arc::new(LocalBuilds::new(state));
        let node = Node::start(config, builds, Arc::new(OneRecord(told)), NodeMetrics::default()).await;
        let node = node.map_err(|error| error.to_string())?;
        let dialer = Dialer::new().map_err(|error| format!("starting the dialer: {error}"))?;
        let disk = workshop.sandboxes().join(DISK);
        if let Source::Directory(directory) = &source {
            let size = directory.shape.disk.bytes();
            let path = match &directory.tree {
                Tree::Directory(path) => path.clone(),
                Tree::Image(name) => image::directory(name, &workshop.sandboxes(), size).await?,
            };
            let disk = disk.clone();
            let made = tokio::task::spawn_blocking(move || disk::ext4::make_image(&path, &disk, size)).await;
            made.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        }
        Ok(Self { node, store: state.store(), source, disk, settings, paused, dialer })
    }

    pub(super) fn build(&self) -> &BuildId {
        match &self.source {
            Source::Build(manifest) => &manifest.id,
            Source::Directory(directory) => &directory.id,
        }
    }

    /// Starts a machine and waits until it runs.
    pub(super) async fn start(&self) -> Result<Machine<'_>, String> {
        let (spec, way) = (self.specification()?, self.settings.way);
        let started = match &self.source {
            Source::Build(manifest) => self.node.start_build(spec, &manifest.id, way).await,
            Source::Directory(directory) => {
                let Directory { kernel, initrd, .. } = &**directory;
                let (kernel, initrd, rootfs) = (kernel.clone(), initrd.clone(), self.disk.clone());
                self.node.boot(spec, BuildFiles { kernel, initrd, rootfs }).await
            }
        };
        let record = started.map_err(|error| error.to_string())?;
        if let Some(why) = &record.rebooted
            && way != WayBack::Reboot
        {
            eprintln!("coldframe: the machine was booted from its disk: {why}");
        }
        Ok(Machine::new(self, record))
    }

    /// Starts a machine that a debugger sets going.
    pub(super) async fn hold(&self) -> Result<Held, String> {
        let held = self.node.hold_build(self.specification()?, self.build()).await;
        held.map_err(|error| error.to_string())
    }

    /// Has the host forget what it has in memory of the build.
    pub(super) fn forget(&self) -> Result<(), String> {
        let Source::Build(manifest) = &self.source else { return Ok(()) };
        let failed = |error: &dyn std::fmt::Display| format!("forgetting what is in memory of it: {error}");
        let store = LocalStore::open(&self.store).map_err(|error| failed(&error))?;
        let sources = artifacts::sources(&store, manifest).map_err(|error| failed(&error))?;
        for build in sources.iter().chain([self.build()]) {
            store.forget(build).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Says what it is.
    pub(super) fn describe(&self) {
        let Source::Build(manifest) = &self.source else { return };
        let Manifest { id, vmm, shape, boot, .. } = &**manifest;
        eprintln!("build     {id}");
        eprintln!(
            "machine   {} {} ({}), processors: {}, memory: {}, disk: {}",
            vmm.name, vmm.version, vmm.accel, shape.vcpus, shape.memory, shape.disk
        );
        if let Some(boot) = boot {
            eprintln!("initrd    {}", boot.initrd);
        }
        eprintln!("coldframe {}", env!("CARGO_PKG_VERSION"));
    }

    /// Lets the ports of the guest be reached on this machine, for as long as what is returned is kept.
    pub(super) async fn serve_ports(&self, option: Option<NonZeroU16>) -> Result<DropGuard, String> {
        let wanted = port::wanted(option, std::env::var("PROXY_PORT").ok().as_deref());
        let listener = listen(wanted).await?;
        let address = listener.local_addr().map_err(|error| error.to_string())?;
        let reach = Reach::without_waking(self.node.clone());
        let reach = reach.map_err(|error| format!("starting the dialer: {error}"))?;
        let edge = edge::Edge::new(Arc::new(reach), edge::EdgeConfig::default());
        let stop = CancellationToken::new();
        tokio::spawn(edge::serve(listener, edge, Router::new(), stop.clone()));
        eprintln!(
            "ports     http://{address} with the headers E2b-Sandbox-Id and E2b-Sandbox-Port, or for the host \
             PORT-SANDBOX.localhost"
        );
        Ok(stop.drop_guard())
    }

    fn specification(&self) -> Result<SandboxSpec, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let team: TeamId = OPERATOR.parse().map_err(|error| failed(&error))?;
        let template: TemplateId = BASE.parse().map_err(|error| failed(&error))?;
        let mut spec = SandboxSpec::new(team, template, self.build().clone(), self.source.shape());
        spec.end_at = spec.end_at.checked_add(LIFE).map_err(|error| failed(&error))?;
        spec.timeout_secs = LIFE.as_secs();
        spec.network.allow_internet = self.settings.egress;
        spec.network.allow_public_traffic = true;
        Ok(spec)
    }
}

/// The wanted port, or, unless that was asked for, any.
async fn listen(Wanted { port, asked_for }: Wanted) -> Result<TcpListener, String> {
    let on = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listening = match TcpListener::bind(on(port)).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && !asked_for => {
            TcpListener::bind(on(0)).await
        }
        listening => listening,
    };
    listening.map_err(|error| format!("listening on {}: {error}; --proxy-port says where else", on(port)))
}

/// The record of the only machine that there is, while it is looked for.
struct OneRecord(watch::Sender<Option<PausedSandbox>>);

#[async_trait]
impl node::Records for OneRecord {
    async fn all(&self) -> Result<Vec<PausedSandbox>, String> {
        Ok(Vec::new())
    }

    async fn put(&self, paused: &PausedSandbox) -> Result<(), String> {
        self.0.send_replace(Some(paused.clone()));
        Ok(())
    }

    async fn remove(&self, _: &SandboxId) -> Result<(), String> {
        self.0.send_replace(None);
        Ok(())
    }
}
