//! Sandboxes without machines: the smallest thing that keeps the promises of `model::Fleet`.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use model::{
    BuildId, Connected, CreateSandbox, Fleet, FleetError, LogEntry, LogQuery, MetricRange, MetricSample,
    OnTimeout, SandboxId, SandboxRecord, SandboxSpec, SandboxState, Snapshotted, TeamId, WayBack,
};
use tokio::sync::watch;

/// What `create` does, by the value of the metadata key `test`.
pub(crate) const NO_CAPACITY: &str = "no-capacity";
pub(crate) const FAIL: &str = "fail";
pub(crate) const PANIC: &str = "panic";
/// The same for resumes.
pub(crate) const NO_RESUME: &str = "no-resume";
/// A paused one with this has no memory, and this is why.
pub(crate) const NO_MEMORY: &str = "no-memory";
pub(crate) const WHY_NOT: &str = "memory.data of build b does not exist";
/// The same for snapshots.
pub(crate) const NO_SNAPSHOT: &str = "no-snapshot";

/// Builds that were made of running sandboxes.
#[derive(Default)]
pub(crate) struct Builds {
    /// Sandboxes can be made from these.
    pub(crate) kept: HashSet<BuildId>,
    /// From these no more, in the order they were forgotten in.
    pub(crate) forgotten: Vec<BuildId>,
    /// These have no memory.
    pub(crate) disks: HashSet<BuildId>,
}

pub(crate) struct MemoryFleet {
    sandboxes: Mutex<HashMap<SandboxId, SandboxRecord>>,
    pub(crate) samples: Mutex<Vec<MetricSample>>,
    pub(crate) lines: Mutex<Vec<LogEntry>>,
    pub(crate) last_query: Mutex<Option<LogQuery>>,
    /// Sandboxes that are shown as running whatever they are, as if they had been paused just after the question.
    pub(crate) shown_running: Mutex<HashSet<SandboxId>>,
    pub(crate) builds: Mutex<Builds>,
    /// Sandboxes that were last paused without their memory.
    pub(crate) disks: Mutex<HashSet<SandboxId>>,
    /// Creates, pauses, resumes and snapshots wait while it is false.
    pub(crate) open: watch::Sender<bool>,
    /// Creates alone wait while it is false.
    pub(crate) open_to_creates: watch::Sender<bool>,
    pub(crate) waiting: AtomicUsize,
    pub(crate) created: AtomicUsize,
    pub(crate) resumed: AtomicUsize,
    pub(crate) killed: AtomicUsize,
    pub(crate) snapshotted: AtomicUsize,
}

impl Default for MemoryFleet {
    fn default() -> Self {
        Self {
            sandboxes: Mutex::default(),
            samples: Mutex::default(),
            lines: Mutex::default(),
            last_query: Mutex::default(),
            shown_running: Mutex::default(),
            builds: Mutex::default(),
            disks: Mutex::default(),
            open: watch::Sender::new(true),
            open_to_creates: watch::Sender::new(true),
            waiting: AtomicUsize::new(0),
            created: AtomicUsize::new(0),
            resumed: AtomicUsize::new(0),
            killed: AtomicUsize::new(0),
            snapshotted: AtomicUsize::new(0),
        }
    }
}

impl MemoryFleet {
    /// Puts a sandbox there as if it had been made at some time.
    pub(crate) fn insert(&self, record: SandboxRecord) {
        self.sandboxes.lock().unwrap().insert(record.spec.id.clone(), record);
    }

    pub(crate) fn all(&self) -> Vec<SandboxRecord> {
        self.sandboxes.lock().unwrap().values().cloned().collect()
    }

    /// Puts a sandbox to sleep as if its end time had come.
    pub(crate) fn put_to_sleep(&self, id: &SandboxId) {
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let record = sandboxes.get_mut(id).unwrap();
        record.state = SandboxState::Paused;
        record.end_at = Timestamp::now();
    }

    /// Waits while the fleet is not open.
    async fn pass(&self) {
        self.pass_by(&self.open).await;
    }

    async fn pass_by(&self, gate: &watch::Sender<bool>) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        gate.subscribe().wait_for(|open| *open).await.unwrap();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Builds that snapshots made and that nobody has forgotten.
    pub(crate) fn kept(&self) -> HashSet<BuildId> {
        self.builds.lock().unwrap().kept.clone()
    }

    fn shown(&self, record: SandboxRecord) -> SandboxRecord {
        let running = self.shown_running.lock().unwrap().contains(&record.spec.id);
        SandboxRecord { state: if running { SandboxState::Running } else { record.state }, ..record }
    }

    fn runs(&self, team: &TeamId, id: &SandboxId) -> Result<(), FleetError> {
        match self.get(team, id)?.state {
            SandboxState::Running => Ok(()),
            SandboxState::Paused => Err(FleetError::Conflict(format!("nothing is kept of {id}"))),
        }
    }

    /// Whether it was paused.
    fn wake(&self, id: &SandboxId, timeout: Duration, way: WayBack) -> Result<bool, FleetError> {
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let record = sandboxes.get_mut(id).ok_or_else(|| FleetError::NotFound(id.clone()))?;
        if record.state == SandboxState::Running {
            return Ok(false);
        }
        if record.spec.metadata.get("test").map(String::as_str) == Some(NO_RESUME) {
            return Err(FleetError::StartFailed("the snapshot's disk is damaged".into()));
        }
        let why = match record.spec.metadata.get("test").map(String::as_str) {
            _ if way == WayBack::Reboot => Some("a reboot was asked for"),
            Some(NO_MEMORY) => Some(WHY_NOT),
            _ => None,
        };
        if let (Some(why), WayBack::WithMemory) = (why, way) {
            return Err(FleetError::NeedsReboot(why.into()));
        }
        record.rebooted = why.map(Into::into);
        record.state = SandboxState::Running;
        record.running_since = Timestamp::now();
        record.end_at = record.running_since + SignedDuration::try_from(timeout).unwrap();
        self.shown_running.lock().unwrap().remove(id);
        self.resumed.fetch_add(1, Ordering::SeqCst);
        Ok(true)
    }

    pub(crate) fn record(wanted: CreateSandbox, started_at: Timestamp) -> SandboxRecord {
        let end_at = started_at + SignedDuration::try_from(wanted.timeout).unwrap();
        SandboxRecord {
            spec: SandboxSpec {
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
                end_at,
                idempotency_key: wanted.idempotency_key,
            },
            state: SandboxState::Running,
            end_at,
            running_since: started_at,
            envd_version: model::ENVD_VERSION.into(),
            rebooted: None,
            dir: PathBuf::new(),
        }
    }
}

#[async_trait]
impl Fleet for MemoryFleet {
    async fn create(&self, wanted: CreateSandbox) -> Result<SandboxRecord, FleetError> {
        match wanted.metadata.get("test").map(String::as_str) {
            Some(NO_CAPACITY) => return Err(FleetError::NoCapacity("no memory left on this host".into())),
            Some(FAIL) => return Err(FleetError::StartFailed("the guest did not become ready".into())),
            Some(PANIC) => panic!("the fleet has a bug"),
            _ => {}
        }
        self.pass().await;
        self.pass_by(&self.open_to_creates).await;
        if self.builds.lock().unwrap().forgotten.contains(&wanted.build) {
            return Err(FleetError::StartFailed(format!("build {} is gone", wanted.build)));
        }
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let same = |record: &&SandboxRecord| {
            wanted.idempotency_key.is_some()
                && record.spec.idempotency_key == wanted.idempotency_key
                && record.spec.team == wanted.team
        };
        if let Some(earlier) = sandboxes.values().find(same) {
            return Ok(earlier.clone());
        }
        let record = Self::record(wanted, Timestamp::now());
        sandboxes.insert(record.spec.id.clone(), record.clone());
        self.created.fetch_add(1, Ordering::SeqCst);
        Ok(record)
    }

    fn get(&self, team: &TeamId, id: &SandboxId) -> Result<SandboxRecord, FleetError> {
        let sandboxes = self.sandboxes.lock().unwrap();
        let own = sandboxes.get(id).filter(|record| &record.spec.team == team);
        own.cloned().map(|record| self.shown(record)).ok_or_else(|| FleetError::NotFound(id.clone()))
    }

    fn list(&self, team: &TeamId) -> Vec<SandboxRecord> {
        let own = self.all().into_iter().filter(|record| &record.spec.team == team);
        own.map(|record| self.shown(record)).collect()
    }

    async fn set_timeout(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        only_extend: bool,
    ) -> Result<SandboxRecord, FleetError> {
        self.get(team, id)?;
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let record = sandboxes.get_mut(id).ok_or_else(|| FleetError::NotFound(id.clone()))?;
        if record.state == SandboxState::Paused {
            return Err(FleetError::Conflict(format!("sandbox {id} does not run")));
        }
        let end = Timestamp::now() + SignedDuration::try_from(timeout).unwrap();
        if !only_extend || end > record.end_at {
            record.end_at = end;
        }
        Ok(record.clone())
    }

    async fn pause(&self, team: &TeamId, id: &SandboxId, memory: bool) -> Result<(), FleetError> {
        self.get(team, id)?;
        self.pass().await;
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let record = sandboxes.get_mut(id).ok_or_else(|| FleetError::NotFound(id.clone()))?;
        if record.state == SandboxState::Paused {
            return Err(FleetError::Conflict(format!("sandbox {id} is paused already")));
        }
        record.state = SandboxState::Paused;
        record.end_at = Timestamp::now();
        let mut disks = self.disks.lock().unwrap();
        if memory {
            disks.remove(id)
        } else {
            disks.insert(id.clone())
        };
        Ok(())
    }

    async fn snapshot(&self, team: &TeamId, id: &SandboxId, memory: bool) -> Result<Snapshotted, FleetError> {
        let record = self.get(team, id)?;
        if record.spec.metadata.get("test").map(String::as_str) == Some(NO_SNAPSHOT) {
            return Err(FleetError::NoCapacity("no space left on this host".into()));
        }
        self.pass().await;
        // What it is by now, not what it was or is shown as.
        let sandboxes = self.sandboxes.lock().unwrap();
        let record = sandboxes.get(id).ok_or_else(|| FleetError::NotFound(id.clone()))?;
        if record.state == SandboxState::Paused {
            return Err(FleetError::Conflict(format!("sandbox {id} is paused")));
        }
        let build = BuildId::random();
        let mut builds = self.builds.lock().unwrap();
        builds.kept.insert(build.clone());
        if !memory {
            builds.disks.insert(build.clone());
        }
        self.snapshotted.fetch_add(1, Ordering::SeqCst);
        Ok(Snapshotted { build, shape: record.spec.shape, envd_version: record.envd_version.clone() })
    }

    async fn forget(&self, build: &BuildId) {
        let mut builds = self.builds.lock().unwrap();
        builds.kept.remove(build);
        builds.forgotten.push(build.clone());
    }

    async fn connect(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        way: WayBack,
    ) -> Result<Connected, FleetError> {
        self.get(team, id)?;
        self.pass().await;
        let resumed = self.wake(id, timeout, way)?;
        if !resumed {
            self.set_timeout(team, id, timeout, true).await?;
        }
        Ok(Connected { record: self.get(team, id)?, resumed })
    }

    async fn resume(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        way: WayBack,
        auto_pause: Option<bool>,
    ) -> Result<SandboxRecord, FleetError> {
        self.get(team, id)?;
        self.pass().await;
        if !self.wake(id, timeout, way)? {
            return Err(FleetError::Conflict(format!("sandbox {id} runs")));
        }
        if let Some(auto_pause) = auto_pause {
            let mut sandboxes = self.sandboxes.lock().unwrap();
            let spec = &mut sandboxes.get_mut(id).unwrap().spec;
            spec.on_timeout = if auto_pause { OnTimeout::Pause } else { OnTimeout::Kill };
        }
        self.get(team, id)
    }

    async fn kill(&self, team: &TeamId, id: &SandboxId) -> Result<(), FleetError> {
        self.get(team, id)?;
        self.sandboxes.lock().unwrap().remove(id);
        self.killed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn metrics(
        &self,
        team: &TeamId,
        id: &SandboxId,
        range: MetricRange,
    ) -> Result<Vec<MetricSample>, FleetError> {
        self.runs(team, id)?;
        let inside = |sample: &&MetricSample| {
            range.start.is_none_or(|start| sample.timestamp >= start)
                && range.end.is_none_or(|end| sample.timestamp <= end)
        };
        Ok(self.samples.lock().unwrap().iter().filter(inside).copied().collect())
    }

    async fn logs(
        &self,
        team: &TeamId,
        id: &SandboxId,
        query: LogQuery,
    ) -> Result<Vec<LogEntry>, FleetError> {
        self.runs(team, id)?;
        *self.last_query.lock().unwrap() = Some(query);
        Ok(self.lines.lock().unwrap().clone())
    }
}
