//! A node of its own for one test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use control::{Accel, BuildFiles, Client, Status};
use model::{
    BuildId, CreateSandbox, Fleet, FleetError, MiB, NetworkPolicy, OnTimeout, PausedSandbox, SandboxId,
    SandboxRecord, Shape, TeamId, TemplateId, VcpuCount,
};
use network::InstanceTag;
use node::{Builds, Node, NodeConfig, NodeMetrics, Records};
use tokio::runtime::Runtime;

use super::census;
use super::daemon::Daemons;

/// The same files for every build.
struct Files(BuildFiles);

impl Builds for Files {
    fn files(&self, _: &BuildId) -> Result<BuildFiles, String> {
        Ok(self.0.clone())
    }
}

/// No sandbox is paused, and none will be.
struct NoRecords;

#[async_trait::async_trait]
impl Records for NoRecords {
    async fn all(&self) -> Result<Vec<PausedSandbox>, String> {
        Ok(Vec::new())
    }

    async fn put(&self, paused: &PausedSandbox) -> Result<(), String> {
        Err(format!("a pause of {}", paused.spec.id))
    }

    async fn remove(&self, _: &SandboxId) -> Result<(), String> {
        Ok(())
    }
}

/// One node, its directory and the daemons of its guests. Everything goes when it is dropped.
pub(crate) struct Rig {
    pub(crate) config: NodeConfig,
    pub(crate) files: BuildFiles,
    pub(crate) team: TeamId,
    server: Option<(Runtime, Node)>,
    daemons: Option<Daemons>,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// A node that is not started yet.
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let guest = crate::guest::Guest::get();
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs.ext4");
        std::fs::File::create(&rootfs).unwrap().set_len(16 << 20).unwrap();
        let process = u16::try_from(std::process::id() & 0xfff).unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed) & 0xf;
        let config = NodeConfig {
            sandboxes: dir.path().join("sandboxes"),
            store: dir.path().join("store"),
            binary: std::env::current_exe().unwrap(),
            tag: InstanceTag::new(process << 4 | number),
            accel: Accel::Tcg,
            vmm: None,
            prefetch: control::Prefetch::WorkingSet,
            dns: Vec::new(),
            max_sandboxes: 8,
            memory: MiB(4096),
            concurrent_starts: 2,
            start_queue: 8,
            start_patience: Duration::from_secs(30),
            slots_ahead: 1,
            machines_ahead: 0,
            ready: Duration::from_secs(30),
            init: Duration::from_secs(30),
        };
        std::fs::create_dir(&config.sandboxes).unwrap();
        Self {
            daemons: Some(Daemons::play(config.sandboxes.clone())),
            config,
            files: BuildFiles { kernel: guest.kernel, initrd: guest.initrd, rootfs },
            team: TeamId::random(),
            server: None,
            _dir: dir,
        }
    }

    /// A node that runs.
    pub(crate) fn started() -> Self {
        let mut rig = Self::new();
        rig.start();
        rig
    }

    /// Guests whose daemons never answer, from now on.
    pub(crate) fn silence(&mut self) {
        self.daemons = None;
    }

    /// Guests' daemons answer again.
    pub(crate) fn speak(&mut self) {
        self.daemons = Some(Daemons::play(self.config.sandboxes.clone()));
    }

    pub(crate) fn start(&mut self) {
        assert!(self.server.is_none());
        let runtime = Runtime::new().unwrap();
        let builds = Arc::new(Files(self.files.clone()));
        let node = runtime
            .block_on(Node::start(self.config.clone(), builds, Arc::new(NoRecords), NodeMetrics::default()))
            .unwrap();
        self.server = Some((runtime, node));
    }

    /// The server goes as if it were killed: nothing of it runs any more and it says no goodbye.
    pub(crate) fn crash(&mut self) {
        // A thread that makes a slot would not die with our server, as it does with a real one.
        self.settle();
        self.forget();
    }

    /// Waits until the slots ahead are ready and no other is in the making.
    pub(crate) fn settle(&self) {
        let count = |found: &[String], kind| found.iter().filter(|name| name.starts_with(kind)).count();
        self.wait_for("the slots to be ready", || {
            let found = self.census();
            let slots = count(&found, "directory") + self.config.slots_ahead;
            count(&found, "namespace") == slots && count(&found, "link") == slots
        });
    }

    fn forget(&mut self) {
        let (runtime, node) = self.server.take().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(5));
        drop(node);
    }

    /// The server is stopped in an orderly way.
    pub(crate) fn stop(&mut self) {
        self.run(async |node| node.stop().await);
        self.forget();
    }

    pub(crate) fn node(&self) -> &Node {
        &self.server.as_ref().unwrap().1
    }

    pub(crate) fn run<T>(&self, work: impl AsyncFnOnce(&Node) -> T) -> T {
        let (runtime, node) = self.server.as_ref().unwrap();
        runtime.block_on(work(node))
    }

    /// Does `work` beside the test.
    pub(crate) fn beside<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.server.as_ref().unwrap().0.spawn(work)
    }

    pub(crate) fn wanted(&self, key: Option<&str>) -> CreateSandbox {
        CreateSandbox {
            team: self.team.clone(),
            template: TemplateId::random(),
            alias: None,
            build: BuildId::random(),
            shape: Shape { vcpus: VcpuCount(1), memory: MiB(192), disk: MiB(16) },
            metadata: BTreeMap::new(),
            env: BTreeMap::new(),
            network: NetworkPolicy::default(),
            on_timeout: OnTimeout::Kill,
            auto_pause_memory: true,
            auto_resume: false,
            auto_resume_reboots: false,
            envd_token: None,
            traffic_token: None,
            timeout: Duration::from_secs(600),
            idempotency_key: key.map(Into::into),
        }
    }

    pub(crate) fn create(&self, wanted: CreateSandbox) -> Result<SandboxRecord, FleetError> {
        self.run(async |node| node.create(wanted).await)
    }

    pub(crate) fn kill(&self, id: &SandboxId) -> Result<(), FleetError> {
        self.run(async |node| node.kill(&self.team, id).await)
    }

    pub(crate) fn exists(&self, id: &SandboxId) -> bool {
        self.node().get(&self.team, id).is_ok()
    }

    pub(crate) fn dir(&self, id: &SandboxId) -> PathBuf {
        self.config.sandboxes.join(id.as_str())
    }

    pub(crate) fn status(&self, id: &SandboxId) -> Status {
        let mut status = self.run(async |_| Client::new(&self.dir(id)).status().await).unwrap();
        // The guest's daemon is played, so it may have been faster than its VMM.
        self.wait_for("the VMM", || {
            status = self.run(async |_| Client::new(&self.dir(id)).status().await).unwrap();
            status.vmm_pid.is_some()
        });
        status
    }

    /// Waits until a sandbox directory appears and its supervisor answers.
    pub(crate) fn first_status(&self) -> Status {
        let mut found = None;
        self.wait_for("a supervisor that answers", || {
            let dir = std::fs::read_dir(&self.config.sandboxes).unwrap().flatten().next();
            found = dir.and_then(|dir| self.run(async |_| Client::new(&dir.path()).status().await).ok());
            found.is_some()
        });
        found.unwrap()
    }

    pub(crate) fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        run_for(Duration::from_secs(20), what, condition);
    }

    /// What exists of this node's sandboxes, ready slots included.
    pub(crate) fn census(&self) -> Vec<String> {
        census::take(&self.config.sandboxes, self.config.tag)
    }

    /// After an orderly stop nothing of any sandbox is left.
    pub(crate) fn ends_clean(mut self) {
        self.stop();
        assert_eq!(self.census(), [""; 0]);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.server.is_some() {
            self.forget();
        }
        let runtime = Runtime::new().unwrap();
        if let Err(error) = runtime.block_on(node::remove_everything(&self.config.sandboxes, self.config.tag))
        {
            eprintln!("clearing up: {error}");
        }
    }
}

/// Waits until `condition` holds.
pub(crate) fn run_for(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
