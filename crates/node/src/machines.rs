//! Machines that stand by: supervisors whose VMM runs and waits, in a network slot of their own, until a sandbox needs one.
//!
//! Starting a VMM takes longer than everything else that a resume does, and needs nothing that is known only then. A machine
//! that stands by has a directory and a control group of its own name; the directory takes the sandbox's name when the
//! machine becomes a sandbox's, and from then on nothing tells it from any other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::{Assignment, Client, Launch, Standby};
use model::{SandboxId, Shape};
use network::Slot;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::node::Node;
use crate::release::{Holdings, Leave, Releaser};
use crate::start::{Spawned, Spawning, What, cgroup_of, limits, vmm_uid};

/// After a machine could not be started: the cause rarely goes away at once.
const RETRY: Duration = Duration::from_secs(2);

/// One machine that stands by.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) holdings: Holdings,
    pub(crate) slot: Slot,
    netns: OwnedFd,
    shape: Shape,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Machine>,
    /// Which kind is wanted; none before a template is known.
    shape: Option<Shape>,
}

/// The machines that stand by.
#[derive(Debug)]
pub(crate) struct Machines {
    state: Mutex<State>,
    ahead: usize,
    wanted: Notify,
}

impl Machines {
    pub(crate) fn new(ahead: usize) -> Self {
        Self { state: Mutex::default(), ahead, wanted: Notify::new() }
    }

    /// Says which kind of machine is wanted from now on.
    pub(crate) fn stand_by_for(&self, shape: Shape) {
        self.lock().shape = Some(shape);
        self.wanted.notify_one();
    }

    /// A machine of this shape that still lives, if one stands by.
    pub(crate) fn take(&self, shape: Shape) -> Option<Machine> {
        let mut state = self.lock();
        let fits = |machine: &Machine| {
            machine.shape == shape
                && machine.holdings.process.as_ref().is_some_and(|process| !process.has_exited())
        };
        let at = state.ready.iter().position(fits)?;
        self.wanted.notify_one();
        state.ready.remove(at)
    }

    /// Ends every machine that nobody took.
    pub(crate) async fn drain(&self, releaser: &Releaser) {
        let ready = std::mem::take(&mut self.lock().ready);
        for machine in ready {
            releaser.release(machine.holdings, Leave::Forced).await;
        }
    }

    /// What to start next, and those that have died or are not wanted any more.
    fn look(&self) -> (Option<Shape>, Vec<Machine>) {
        let mut state = self.lock();
        let shape = state.shape;
        let lives = |machine: &Machine| {
            Some(machine.shape) == shape
                && machine.holdings.process.as_ref().is_some_and(|process| !process.has_exited())
        };
        let (live, dead): (Vec<_>, Vec<_>) = state.ready.drain(..).partition(lives);
        state.ready.extend(live);
        let wanted = shape.filter(|_| state.ready.len() < self.ahead);
        (wanted, dead)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps machines standing by until `stop`.
pub(crate) async fn keep_filled(node: Node, stop: CancellationToken) {
    let machines = &node.shared.machines;
    while !stop.is_cancelled() {
        let wanted = machines.wanted.notified();
        let (shape, dead) = machines.look();
        for machine in dead {
            node.shared.releaser.release(machine.holdings, Leave::Willing).await;
        }
        let Some(shape) = shape else {
            stop.run_until_cancelled(wanted).await;
            continue;
        };
        match node.stand_by(shape).await {
            Ok(machine) => machines.lock().ready.push_back(machine),
            Err(error) => {
                tracing::error!(%error, "starting a machine ahead of need failed, trying again");
                stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
            }
        }
    }
}

impl Node {
    /// Starts a machine of this shape and waits until it stands by.
    async fn stand_by(&self, shape: Shape) -> io::Result<Machine> {
        let config = &self.shared.config;
        let slot = self.shared.slots.take().await;
        // A name like a sandbox's, and never one's.
        let id = SandboxId::random();
        let name = format!("m{}", id.as_str());
        let standby = Standby {
            shape,
            accel: config.accel,
            cgroup: cgroup_of(config, &name),
            limits: limits(shape),
            vmm_uid: vmm_uid(config, slot.index()),
            vmm: config.vmm.clone(),
        };
        let mut holdings = Holdings {
            id,
            process: None,
            cgroup: standby.cgroup.clone(),
            slot: Some(slot.index()),
            dir: config.sandboxes.join(name),
        };
        let started = async {
            let netns = slot.open_netns().map_err(io::Error::other)?;
            let spawning = Spawning {
                hierarchy: self.shared.releaser.hierarchy.clone(),
                binary: config.binary.clone(),
                dir: holdings.dir.clone(),
                cgroup: standby.cgroup.clone(),
                what: What::Standby(standby),
                netns: netns.try_clone()?,
            };
            let process =
                tokio::task::spawn_blocking(move || spawning.spawn()).await.map_err(io::Error::other)??;
            holdings.process = Some(process);
            Client::new(&holdings.dir).standby().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(netns)
        };
        match started.await {
            Ok(netns) => Ok(Machine { holdings, slot, netns, shape }),
            Err(error) => {
                self.shared.releaser.release(holdings, Leave::Forced).await;
                Err(error)
            }
        }
    }

    /// Makes a machine a sandbox's; `None` when that did not work, and nothing of the machine is left then.
    pub(crate) async fn assign(&self, machine: Machine, launch: Launch) -> Option<Spawned> {
        let Machine { mut holdings, slot, netns, .. } = machine;
        let id = launch.spec.id.clone();
        let running_since = launch.running_since;
        let dir = self.shared.config.sandboxes.join(id.as_str());
        let assigned = async {
            slot.apply(&launch.spec.network).await.map_err(io::Error::other)?;
            launch.write(&holdings.dir).map_err(io::Error::other)?;
            std::fs::rename(&holdings.dir, &dir)?;
            holdings.dir.clone_from(&dir);
            let assignment = Assignment { launch, dir: dir.clone() };
            Client::new(&dir).assign(&assignment).await.map_err(io::Error::other)
        };
        let assigned = assigned.await;
        holdings.id = id;
        match assigned {
            Ok(()) => Some(Spawned { netns, holdings, running_since }),
            Err(error) => {
                tracing::warn!(sandbox = %holdings.id, %error, "a machine that stood by cannot be used");
                self.shared.releaser.release(holdings, Leave::Forced).await;
                None
            }
        }
    }
}
