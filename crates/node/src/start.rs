//! Starting one sandbox.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cgroup::Hierarchy;
use control::{CgroupLimits, Client, Deadlines, Goal, Launch, Phase, SOCKET_FILE, Standby, Start};
use jiff::{SignedDuration, Timestamp};
use model::{CreateSandbox, FleetError, MiB, SandboxId, SandboxRecord, SandboxSpec, Shape, WayBack};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::{Room, Turn};
use crate::config::NodeConfig;
use crate::entry::{Entry, Needed, View};
use crate::node::Node;
use crate::process::SupervisorProcess;
use crate::references::Hold;
use crate::release::{Holdings, Leave};

/// What a VMM needs beside the guest's memory: its own code and heap, the translator's buffer without KVM.
const VMM_OVERHEAD: MiB = MiB(768);
/// QEMU has about a dozen threads; more means that something else runs in its group.
const VMM_PIDS: u32 = 128;

impl Node {
    /// Starts a sandbox and waits until it runs. Runs to its end once it is polled for the first time: call it in a
    /// task of its own.
    pub(crate) async fn start_sandbox(&self, wanted: CreateSandbox) -> Result<SandboxRecord, FleetError> {
        // From before it is looked for: whoever deletes it now does so after this start.
        let _needed = self.shared.paused.references().hold(&wanted.build);
        let build = match self.shared.warm.of(&wanted.build) {
            Some(build) => build,
            // What a sandbox was once.
            None if self.finds(&wanted.build).await => wanted.build.clone(),
            None => {
                let files = self.shared.builds.files(&wanted.build).map_err(FleetError::Internal)?;
                return self.start_specified(specification(wanted), Start::Boot(files)).await;
            }
        };
        self.start_from(specification(wanted), &build, WayBack::Best).await
    }

    /// Starts a sandbox that may have existed before, and waits until it runs.
    pub(crate) async fn start_specified(
        &self,
        spec: SandboxSpec,
        start: Start,
    ) -> Result<SandboxRecord, FleetError> {
        self.begin(spec, start, Goal::Run).await?.started().await
    }

    /// Starts a machine for a sandbox.
    pub(crate) async fn begin(
        &self,
        spec: SandboxSpec,
        start: Start,
        goal: Goal,
    ) -> Result<Beginning, FleetError> {
        let resumed = self.shared.paused.get(&spec.id).is_some();
        // From before its supervisor looks for it until the sandbox is over.
        let references = self.shared.paused.references();
        let needed = start.build().map(|build| references.hold(build)).into_iter().collect();
        let room = self.shared.admission.room(spec.shape.memory)?;
        let spec = Arc::new(spec);
        let turn = self.shared.admission.turn().await?;
        let ready = match (&start, &goal) {
            (Start::Resume(_), Goal::Run) => self.shared.machines.take(spec.shape),
            _ => None,
        };
        let mut assigned = None;
        if let Some(machine) = ready {
            let index = machine.slot.index();
            let launch =
                self.launch(&spec, start.clone(), goal.clone(), index, machine.holdings.cgroup.clone());
            assigned = self.assign(machine, launch).await;
        }
        let Spawned { netns, holdings, running_since } = match assigned {
            Some(assigned) => assigned,
            None => self.spawn(&spec, start.clone(), goal).await?,
        };
        let first = View {
            phase: Phase::Starting,
            end_at: spec.end_at,
            envd_version: String::new(),
            pausing: false,
            ended: None,
        };
        let run = Run { spec, start, running_since, resumed, needed };
        let entry = self.tend(run, Arc::new(netns), holdings, room, first);
        Ok(Beginning { entry, turn })
    }

    /// Starts a supervisor for a sandbox.
    async fn spawn(&self, spec: &Arc<SandboxSpec>, start: Start, goal: Goal) -> Result<Spawned, FleetError> {
        let slot = tokio::time::timeout(self.shared.config.start_patience, self.shared.slots.take())
            .await
            .map_err(|_| {
                FleetError::NoCapacity("no network slot became free on this host; try again later".into())
            })?;
        let launch =
            self.launch(spec, start, goal, slot.index(), cgroup_of(&self.shared.config, spec.id.as_str()));
        let running_since = launch.running_since;
        let mut holdings = Holdings {
            id: spec.id.clone(),
            process: None,
            cgroup: launch.cgroup.clone(),
            slot: Some(slot.index()),
            dir: self.shared.config.sandboxes.join(spec.id.as_str()),
        };
        let spawned = async {
            slot.apply(&spec.network).await.map_err(io::Error::other)?;
            let netns = slot.open_netns().map_err(io::Error::other)?;
            let spawning = Spawning {
                hierarchy: self.shared.releaser.hierarchy.clone(),
                binary: self.shared.config.binary.clone(),
                dir: holdings.dir.clone(),
                cgroup: launch.cgroup.clone(),
                what: What::Sandbox(Box::new(launch)),
                netns: netns.try_clone()?,
            };
            // Writes files and forks: not on a thread that others wait for.
            let process =
                tokio::task::spawn_blocking(move || spawning.spawn()).await.map_err(io::Error::other)??;
            Ok::<_, io::Error>((netns, process))
        };
        match spawned.await {
            Ok((netns, process)) => {
                holdings.process = Some(process);
                Ok(Spawned { netns, holdings, running_since })
            }
            Err(error) => {
                let text = format!("starting the supervisor of sandbox {}: {error}", spec.id);
                tracing::error!(sandbox = %spec.id, %error, "starting the supervisor failed");
                self.shared.releaser.release(holdings, Leave::Forced).await;
                Err(FleetError::Internal(text))
            }
        }
    }

    /// Enters a sandbox into the map and follows it until everything it held is released.
    pub(crate) fn tend(
        &self,
        run: Run,
        netns: Arc<OwnedFd>,
        holdings: Holdings,
        room: Room,
        first: View,
    ) -> Arc<Entry> {
        let (sender, view) = watch::channel(first);
        let entry = Arc::new(Entry {
            client: Client::new(&holdings.dir),
            dir: holdings.dir.clone(),
            spec: run.spec,
            start: run.start,
            running_since: run.running_since,
            resumed: run.resumed,
            netns,
            view,
            force: CancellationToken::new(),
            released: CancellationToken::new(),
            needed: Mutex::new(Needed::first(run.needed)),
        });
        self.insert(Arc::clone(&entry));
        tokio::spawn(crate::adopt::follow(self.clone(), Arc::clone(&entry), sender, holdings, room));
        entry
    }

    fn launch(
        &self,
        spec: &Arc<SandboxSpec>,
        start: Start,
        goal: Goal,
        slot: u16,
        cgroup: PathBuf,
    ) -> Launch {
        let config = &self.shared.config;
        Launch {
            spec: SandboxSpec::clone(spec),
            running_since: Timestamp::now(),
            start,
            skip_envd_wait: goal == Goal::Debug,
            goal,
            store: config.store.clone(),
            accel: config.accel,
            prefetch: config.prefetch,
            slot,
            cgroup,
            limits: limits(spec.shape),
            vmm_uid: vmm_uid(config, slot),
            vmm: config.vmm.clone(),
            dns: config.dns.clone(),
            deadlines: Deadlines { ready_ms: millis(config.ready), init_ms: millis(config.init) },
        }
    }
}

/// One run of a sandbox: from its start or resume until it ends or is paused.
pub(crate) struct Run {
    pub(crate) spec: Arc<SandboxSpec>,
    pub(crate) start: Start,
    pub(crate) running_since: Timestamp,
    pub(crate) resumed: bool,
    /// Builds that it reads from.
    pub(crate) needed: Vec<Hold>,
}

/// A machine that is being brought up.
pub(crate) struct Beginning {
    pub(crate) entry: Arc<Entry>,
    turn: Turn,
}

impl Beginning {
    /// Waits until it runs, or for why it does not.
    async fn started(self) -> Result<SandboxRecord, FleetError> {
        let started = self.entry.started().await;
        drop(self.turn);
        if started.is_err() {
            // What the sandbox held is free again when its client hears of the failure.
            self.entry.released.cancelled().await;
        }
        started
    }
}

/// The group of one sandbox, relative to the hierarchy's root.
pub(crate) fn cgroup_of(config: &NodeConfig, name: &str) -> PathBuf {
    instance_cgroup(config.tag).join(name)
}

/// The group of all sandboxes of this instance.
pub(crate) fn instance_cgroup(tag: network::InstanceTag) -> std::path::PathBuf {
    format!("coldframe-{tag}").into()
}

/// A user for each slot of each instance, in a range that no distribution hands out.
pub(crate) fn vmm_uid(config: &NodeConfig, slot: u16) -> u32 {
    const BASE: u32 = 0x4000_0000;
    BASE + (u32::from(config.tag.value()) << 12) + u32::from(slot % crate::slots::MAX_SLOTS)
}

pub(crate) fn limits(shape: Shape) -> CgroupLimits {
    CgroupLimits {
        memory_max: shape.memory.bytes() + VMM_OVERHEAD.bytes(),
        pids_max: VMM_PIDS,
        // One more than the guest has, for the VMM's own threads.
        cpu_quota_us: CgroupLimits::CPU_PERIOD_US * (u64::from(shape.vcpus.0) + 1),
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// When a life of `timeout` that begins at `start` is over.
pub(crate) fn end_of(start: Timestamp, timeout: std::time::Duration) -> Timestamp {
    let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
    start.saturating_add(timeout).unwrap_or(Timestamp::MAX)
}

fn specification(wanted: CreateSandbox) -> SandboxSpec {
    let started_at = Timestamp::now();
    SandboxSpec {
        id: SandboxId::random(),
        team: wanted.team,
        template: wanted.template,
        alias: wanted.alias,
        build: wanted.build,
        shape: wanted.shape,
        metadata: wanted.metadata,
        env: wanted.env,
        network: wanted.network,
        on_timeout: wanted.on_timeout,
        auto_pause_memory: wanted.auto_pause_memory,
        auto_resume: wanted.auto_resume,
        auto_resume_reboots: wanted.auto_resume_reboots,
        timeout_secs: wanted.timeout.as_secs(),
        envd_token: wanted.envd_token,
        traffic_token: wanted.traffic_token,
        started_at,
        end_at: end_of(started_at, wanted.timeout),
        idempotency_key: wanted.idempotency_key,
    }
}

/// A supervisor that runs.
pub(crate) struct Spawned {
    pub(crate) netns: OwnedFd,
    pub(crate) holdings: Holdings,
    pub(crate) running_since: Timestamp,
}

/// What a supervisor is started for.
pub(crate) enum What {
    Sandbox(Box<Launch>),
    Standby(Standby),
}

/// What starting a supervisor takes.
pub(crate) struct Spawning {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) binary: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) what: What,
    pub(crate) netns: OwnedFd,
}

impl Spawning {
    /// The listener is made here and inherited, so the node can connect from the first moment and nobody polls.
    pub(crate) fn spawn(self) -> io::Result<SupervisorProcess> {
        let Self { hierarchy, binary, dir, cgroup, what, netns } = self;
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        match what {
            What::Sandbox(launch) => launch.write(&dir).map_err(io::Error::other)?,
            What::Standby(standby) => standby.write(&dir)?,
        }
        let control = UnixListener::bind(dir.join(SOCKET_FILE))?;
        control.set_nonblocking(true)?;
        let group = hierarchy
            .create(&cgroup.join("supervisor"), &cgroup::Limits::default())
            .map_err(io::Error::other)?;
        SupervisorProcess::spawn(&binary, &dir, group.procs_fd()?, control, netns)
    }
}
