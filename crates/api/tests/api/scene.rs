//! A catalog with two teams and their templates, a fleet, and the router on top.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{ApiConfig, ApiState};
use axum::Router;
use catalog::{Catalog, Team, Template};
use jiff::Timestamp;
use model::{
    BuildId, CreateSandbox, MiB, NetworkPolicy, OnTimeout, SandboxId, SandboxRecord, Secret, Shape,
    TemplateId, VcpuCount,
};
use tempfile::TempDir;

use crate::client::Client;
use crate::fleet::MemoryFleet;

pub(crate) const SHAPE: Shape = Shape { vcpus: VcpuCount(2), memory: MiB(512), disk: MiB(4096) };

pub(crate) struct Scene {
    _dir: TempDir,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) fleet: Arc<MemoryFleet>,
    pub(crate) state: ApiState,
    pub(crate) router: Router,
    pub(crate) team: Team,
    pub(crate) key: Secret,
    /// The built-in template `base`.
    pub(crate) base: Template,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        Self::with(ApiConfig::default()).await
    }

    pub(crate) async fn with(config: ApiConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Arc::new(Catalog::open(&dir.path().join("catalog.db")).await.unwrap());
        let team = catalog.ensure_team("garden", "The garden").await.unwrap();
        let (_, key) = catalog.create_key(&team.id, "test").await.unwrap();
        let base = template(None, "base");
        catalog.put_template(&base).await.unwrap();
        let fleet = Arc::new(MemoryFleet::default());
        let state = ApiState::new(catalog.clone(), fleet.clone(), config);
        let router = api::router(state.clone());
        Self { _dir: dir, catalog, fleet, state, router, team, key, base }
    }

    /// Requests of the first team.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.router.clone(), self.key.clone())
    }

    /// Another team and its requests.
    pub(crate) async fn stranger(&self) -> (Team, Client) {
        let team = self.catalog.ensure_team("alpine", "The alpine house").await.unwrap();
        let (_, key) = self.catalog.create_key(&team.id, "test").await.unwrap();
        (team, Client::new(self.router.clone(), key))
    }

    /// A running sandbox of the first team, made `seconds_ago`.
    pub(crate) fn sandbox(&self, seconds_ago: i64, metadata: &[(&str, &str)]) -> SandboxRecord {
        let metadata: BTreeMap<_, _> = metadata.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        let wanted = CreateSandbox {
            team: self.team.id.clone(),
            template: self.base.id.clone(),
            alias: Some("base".into()),
            build: self.base.build.clone(),
            shape: SHAPE,
            metadata,
            env: BTreeMap::new(),
            network: NetworkPolicy::default(),
            on_timeout: OnTimeout::Kill,
            auto_pause_memory: true,
            auto_resume: false,
            auto_resume_reboots: false,
            envd_token: Some(Secret::random("", 32)),
            traffic_token: None,
            timeout: Duration::from_secs(3600),
            idempotency_key: None,
        };
        let started_at = Timestamp::from_second(Timestamp::now().as_second() - seconds_ago).unwrap();
        let record = MemoryFleet::record(wanted, started_at);
        self.fleet.insert(record.clone());
        record
    }

    /// A paused sandbox of the first team, made `seconds_ago` and paused now.
    pub(crate) fn paused(&self, seconds_ago: i64, metadata: &[(&str, &str)]) -> SandboxRecord {
        let id = self.sandbox(seconds_ago, metadata).spec.id;
        self.fleet.put_to_sleep(&id);
        self.now(&id)
    }

    /// A sandbox as it is now.
    pub(crate) fn now(&self, id: &SandboxId) -> SandboxRecord {
        self.fleet.all().into_iter().find(|record| &record.spec.id == id).unwrap()
    }
}

pub(crate) fn template(owner: Option<&Team>, alias: &str) -> Template {
    Template {
        id: TemplateId::random(),
        team: owner.map(|team| team.id.clone()),
        team_slug: owner.map(|team| team.slug.clone()),
        aliases: vec![alias.into()],
        public: owner.is_none(),
        build: BuildId::random(),
        shape: SHAPE,
        envd_version: model::ENVD_VERSION.into(),
        created_at: Timestamp::now(),
        updated_at: Timestamp::now(),
        build_count: 1,
        spawn_count: 0,
        last_spawned_at: None,
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    until_asked(what, async || so()).await;
}

/// Waits until something is so, which takes a question to know.
pub(crate) async fn until_asked(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !so().await {
        assert!(start.elapsed() < Duration::from_secs(10), "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
