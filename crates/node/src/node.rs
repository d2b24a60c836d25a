//! The node: a map of what runs here, and the tasks that keep it true.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cgroup::Hierarchy;
use futures_util::future::join_all;
use model::{BuildId, SandboxId, SandboxSpec};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::compaction::Waiting;
use crate::config::{Builds, NodeConfig};
use crate::entry::Entry;
use crate::machines::Machines;
use crate::metrics::NodeMetrics;
use crate::paused::{Paused, Records};
use crate::references::Hold;
use crate::release::Releaser;
use crate::repeat::Repeats;
use crate::slots::Slots;
use crate::template::Warm;

/// A sandbox's control socket is below the directory of sandboxes, and the kernel allows 107 bytes for its path: the
/// rest is for the sandbox's id and the socket's name.
const MAX_PATH: usize = 70;

/// A node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Network set-up failed.
    #[error("setting up the network: {0}")]
    Network(#[from] network::NetworkError),
    /// No control groups.
    #[error("setting up control groups: {0}")]
    Cgroup(#[from] cgroup::CgroupError),
    /// The records of paused sandboxes.
    #[error("finding out which sandboxes are paused: {0}")]
    Records(String),
    /// The directory of sandboxes.
    #[error("the directory of sandboxes {path}: {source}")]
    Directory {
        /// Which directory.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What the edge needs to reach a sandbox.
#[derive(Debug, Clone)]
pub struct Reachable {
    /// Tokens and policy.
    pub spec: Arc<SandboxSpec>,
    /// The namespace in which the guest has its address.
    pub netns: Arc<OwnedFd>,
}

/// Everything that runs on this host. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: NodeConfig,
    pub(crate) builds: Arc<dyn Builds>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) slots: Arc<Slots>,
    pub(crate) releaser: Releaser,
    pub(crate) metrics: NodeMetrics,
    pub(crate) repeats: Repeats,
    pub(crate) paused: Paused,
    pub(crate) warm: Warm,
    pub(crate) machines: Machines,
    /// The paused sandboxes whose builds may be worth compacting.
    pub(crate) waiting: Waiting,
    /// Builds that sandboxes are made from: templates and snapshots.
    kept: Mutex<HashMap<BuildId, Hold>>,
    sandboxes: RwLock<HashMap<SandboxId, Arc<Entry>>>,
    ended: broadcast::Sender<SandboxId>,
    stop: CancellationToken,
    /// Keep the slots and the machines filled, and builds compact, until `stop`.
    fillers: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn kept(&self) -> std::sync::MutexGuard<'_, HashMap<BuildId, Hold>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ended sandboxes that a slow listener may miss.
const ENDED_QUEUE: usize = 1024;

impl Node {
    /// Prepares the host, adopts the sandboxes of a predecessor, reclaims what else it left, and keeps slots ready.
    pub async fn start(
        config: NodeConfig,
        builds: Arc<dyn Builds>,
        records: Arc<dyn Records>,
        metrics: NodeMetrics,
    ) -> Result<Self, NodeError> {
        let directory =
            |source| NodeError::Directory { path: config.sandboxes.display().to_string(), source };
        if config.sandboxes.as_os_str().len() > MAX_PATH {
            let text = format!("the path is longer than {MAX_PATH} bytes, too long for the sockets in it");
            return Err(directory(std::io::Error::other(text)));
        }
        std::fs::create_dir_all(&config.sandboxes).map_err(directory)?;
        crate::durable::keep_names(&[&config.sandboxes, &config.store]).map_err(directory)?;
        let hierarchy = Hierarchy::discover()?;
        let host = Arc::new(network::Host::prepare(config.tag, None).await?);
        let paused =
            Paused::load(records, &config.store, &config.sandboxes).await.map_err(NodeError::Records)?;
        let survivors = crate::adopt::survivors(&config.sandboxes).await.map_err(directory)?;
        let in_use = survivors.iter().map(|survivor| survivor.launch.slot).collect();
        paused.clean().await;
        let entered = crate::adopt::enter_pauses(&config.sandboxes, &survivors, &paused).await;
        entered.map_err(NodeError::Records)?;
        crate::adopt::reclaim(&config.sandboxes, config.tag, &hierarchy, &host, &survivors, &metrics).await;
        let slots = Arc::new(Slots::new(host, config.slots_ahead, &in_use));
        let releaser = Releaser { hierarchy, slots: Arc::clone(&slots), metrics: metrics.clone() };
        let admission = Admission::new(&config);
        let machines = Machines::new(config.machines_ahead);
        let node = Self {
            shared: Arc::new(Shared {
                config,
                builds,
                admission,
                slots,
                releaser,
                metrics,
                repeats: Repeats::default(),
                paused,
                warm: Warm::default(),
                machines,
                waiting: Waiting::default(),
                kept: Mutex::default(),
                sandboxes: RwLock::default(),
                ended: broadcast::channel(ENDED_QUEUE).0,
                stop: CancellationToken::new(),
                fillers: Mutex::default(),
            }),
        };
        for survivor in survivors {
            node.adopt(survivor);
        }
        let (slots, stop) = (Arc::clone(&node.shared.slots), node.shared.stop.clone());
        let filling = [
            tokio::spawn(async move { slots.keep_filled(&stop).await }),
            tokio::spawn(crate::machines::keep_filled(node.clone(), node.shared.stop.clone())),
            tokio::spawn(crate::compaction::keep_compact(node.clone(), node.shared.stop.clone())),
        ];
        node.fillers().extend(filling);
        Ok(node)
    }

    /// Prepares for the end of this server: nothing is started any more, no more slots are made and unused ones are
    /// destroyed. Sandboxes run on.
    pub async fn stop(&self) {
        self.shared.stop.cancel();
        self.shared.admission.close();
        let fillers = std::mem::take(&mut *self.fillers());
        for error in join_all(fillers).await.into_iter().filter_map(Result::err) {
            tracing::error!(%error, "making network slots or machines, or compacting, had failed");
        }
        self.shared.machines.drain(&self.shared.releaser).await;
        self.shared.slots.drain().await;
    }

    /// How to reach a running sandbox; `None` when there is none with this id.
    #[must_use]
    pub fn reach(&self, id: &SandboxId) -> Option<Reachable> {
        let entry = self.entry(id)?;
        entry.runs().then(|| Reachable { spec: Arc::clone(&entry.spec), netns: Arc::clone(&entry.netns) })
    }

    /// The specification of a sandbox that is paused, or on its way to or from there, and is resumed by traffic.
    #[must_use]
    pub fn asleep(&self, id: &SandboxId) -> Option<Arc<SandboxSpec>> {
        if let Some(entry) = self.entry(id).filter(|entry| entry.exists()) {
            return (!entry.runs() && entry.spec.auto_resume).then(|| Arc::clone(&entry.spec));
        }
        let paused = self.shared.paused.get(id)?;
        paused.spec.auto_resume.then(|| Arc::new(paused.spec.clone()))
    }

    /// The specification of every sandbox that a request can reach: those that run, and those that it would wake.
    #[must_use]
    pub fn reachable(&self) -> Vec<Arc<SandboxSpec>> {
        let mut found: Vec<_> =
            self.read().values().filter(|entry| entry.runs()).map(|entry| Arc::clone(&entry.spec)).collect();
        let asleep =
            self.shared.paused.all().into_iter().filter(|paused| self.asleep(&paused.spec.id).is_some());
        found.extend(asleep.map(|paused| Arc::new(paused.spec.clone())));
        found
    }

    /// The sandboxes that end from now on, each as soon as clients no longer see it: whoever holds connections into one
    /// lets go of them, since they keep its namespace alive.
    #[must_use]
    pub fn ended(&self) -> broadcast::Receiver<SandboxId> {
        self.shared.ended.subscribe()
    }

    /// Ends every sandbox and waits until nothing is left of them.
    pub async fn kill_all(&self) {
        let entries: Vec<_> = self.read().values().cloned().collect();
        join_all(entries.iter().map(|entry| entry.end())).await;
    }

    pub(crate) fn entry(&self, id: &SandboxId) -> Option<Arc<Entry>> {
        self.read().get(id).cloned()
    }

    pub(crate) fn insert(&self, entry: Arc<Entry>) {
        self.write().insert(entry.spec.id.clone(), entry);
    }

    pub(crate) fn tell_ended(&self, id: &SandboxId) {
        // Nobody has to listen.
        let _ = self.shared.ended.send(id.clone());
    }

    pub(crate) fn remove(&self, id: &SandboxId) {
        self.write().remove(id);
    }

    pub(crate) fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<SandboxId, Arc<Entry>>> {
        self.shared.sandboxes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn fillers(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.shared.fillers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<SandboxId, Arc<Entry>>> {
        self.shared.sandboxes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("sandboxes", &self.read().len()).finish_non_exhaustive()
    }
}
