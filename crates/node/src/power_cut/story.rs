//! What happens to a few sandboxes while somebody watches: pauses and what follows them, through the code that does it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifacts::{LocalStore, Store};
use async_trait::async_trait;
use build::Manifest;
use catalog::{Build, Catalog, NewSnapshot, Team, TemplateName};
use model::{BuildId, EndReason, PausedSandbox, SandboxId};

use super::builds::Pause;
use crate::adopt::enter_pauses;
use crate::compaction::{Outcome, make_again};
use crate::durable::keep_names;
use crate::paused::{Paused, Records};
use crate::references::Hold;

/// A sandbox that is never resumed, whatever happens to the others.
pub(super) const BYSTANDER: Pause = Pause { sandbox: "bystander", number: 1, needs: &[] };
const FIRST: Pause = Pause { sandbox: "a", number: 1, needs: &[] };
const DIFFERENCE: Pause = Pause { number: 2, needs: &[1], ..FIRST };
/// It needs nothing of those before it, so their builds are deleted.
const ALL_ANEW: Pause = Pause { number: 3, ..FIRST };
const CRASHED: Pause = Pause { number: 4, needs: &[3], ..FIRST };
const KILLED: Pause = Pause { sandbox: "killed", number: 1, needs: &[] };
const TAKEN_BACK: Pause = Pause { number: 2, needs: &[1], ..KILLED };
const TWICE: Pause = Pause { sandbox: "twice", number: 1, needs: &[] };
const TWICE_MORE: Pause = Pause { number: 2, needs: &[1], ..TWICE };
const FORGOTTEN: Pause = Pause { sandbox: "forgotten", number: 1, needs: &[] };
/// Its build is made again after the second pause.
const COMPACTED: Pause = Pause { sandbox: "compacted", number: 1, needs: &[] };
const COMPACTED_MORE: Pause = Pause { number: 2, needs: &[1], ..COMPACTED };
const UNRECORDED: Pause = Pause { sandbox: "unrecorded", number: 1, needs: &[] };
const UNLUCKY: Pause = Pause { sandbox: "unlucky", number: 1, needs: &[] };
/// Snapshots of one that runs, each in the place of the one before, and what it becomes next.
const COPIED: Pause = Pause { sandbox: "copied", number: 1, needs: &[] };
const COPIED_AGAIN: Pause = Pause { number: 2, needs: &[1], ..COPIED };
const COPIED_ANEW: Pause = Pause { number: 3, ..COPIED };
/// The name of a snapshot that is deleted.
const DELETED: Pause = Pause { sandbox: "deleted", number: 1, needs: &[] };

pub(super) const PAUSES: &[Pause] = &[
    BYSTANDER,
    FIRST,
    DIFFERENCE,
    ALL_ANEW,
    CRASHED,
    KILLED,
    TAKEN_BACK,
    TWICE,
    TWICE_MORE,
    FORGOTTEN,
    COMPACTED,
    COMPACTED_MORE,
    UNRECORDED,
    UNLUCKY,
    COPIED,
    COPIED_AGAIN,
    COPIED_ANEW,
    DELETED,
];

/// The catalog as `coldframe` gives it to the node.
pub(crate) struct CatalogRecords(pub(crate) Arc<Catalog>);

#[async_trait]
impl Records for CatalogRecords {
    async fn all(&self) -> Result<Vec<PausedSandbox>, String> {
        self.0.paused().await.map_err(|error| error.to_string())
    }

    async fn put(&self, paused: &PausedSandbox) -> Result<(), String> {
        self.0.put_paused(paused).await.map_err(|error| error.to_string())
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), String> {
        self.0.remove_paused(id).await.map(drop).map_err(|error| error.to_string())
    }
}

/// A state directory.
#[derive(Debug, Clone)]
pub(super) struct State(pub(super) PathBuf);

impl State {
    pub(super) fn sandboxes(&self) -> PathBuf {
        self.0.join("run/sandboxes")
    }

    pub(super) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub(super) fn catalog(&self) -> PathBuf {
        self.0.join("catalog.db")
    }

    /// What a node does of its start that has to do with pauses and snapshots. The builds that are `named` in the catalog are
    /// kept as long as what comes with the records is.
    pub(super) async fn start(&self, records: Arc<dyn Records>, named: &[BuildId]) -> (Paused, Vec<Hold>) {
        fs::create_dir_all(self.sandboxes()).unwrap();
        keep_names(&[&self.sandboxes(), &self.store()]).unwrap();
        let paused = Paused::load(records, &self.store(), &self.sandboxes()).await.unwrap();
        paused.clean().await;
        enter_pauses(&self.sandboxes(), &[], &paused).await.unwrap();
        let kept = named.iter().map(|build| paused.references().hold(build)).collect();
        paused.references().complete();
        paused.references().collect().await;
        for left in fs::read_dir(self.sandboxes()).unwrap() {
            fs::remove_dir_all(left.unwrap().path()).unwrap();
        }
        (paused, kept)
    }
}

/// What clients are told: the test reads it.
pub(super) struct Told(File);

impl Told {
    pub(super) fn at(path: &Path) -> Self {
        Self(OpenOptions::new().create(true).append(true).open(path).unwrap())
    }

    /// From now on the sandbox may be in this state, too, when the power comes back.
    fn may_be(&mut self, sandbox: &str, number: u8) {
        self.0.write_all(format!("may {sandbox} {number}\n").as_bytes()).unwrap();
    }

    /// Somebody was told that it is in this state: from now on it is.
    fn is(&mut self, sandbox: &str, number: u8) {
        self.0.write_all(format!("is {sandbox} {number}\n").as_bytes()).unwrap();
    }
}

struct Host {
    state: State,
    catalog: Arc<Catalog>,
    paused: Paused,
    /// The builds of snapshots.
    kept: Vec<Hold>,
    team: Team,
    told: Told,
}

impl Host {
    async fn start(state: State, told: Told) -> Self {
        fs::create_dir_all(&state.0).unwrap();
        let catalog = Arc::new(Catalog::open(&state.catalog()).await.unwrap());
        let team = catalog.ensure_team("garden", "The garden").await.unwrap();
        let named = catalog.named_builds().await.unwrap();
        let (paused, kept) = state.start(Arc::new(CatalogRecords(Arc::clone(&catalog))), &named).await;
        Self { state, catalog, paused, kept, team, told }
    }

    /// Nothing of the server is left, and nothing was said or closed.
    async fn crash_and_start(self) -> Self {
        let Self { state, catalog, paused, told, .. } = self;
        drop(paused);
        std::mem::forget(catalog);
        Self::start(state, told).await
    }

    fn dir(&self, pause: Pause) -> PathBuf {
        self.state.sandboxes().join(pause.sandbox)
    }

    /// Makes the directory of a sandbox that runs, as it is made by the name of the machine that stood by.
    fn run(&self, pause: Pause) {
        let machine = self.state.sandboxes().join(format!("m{}", pause.sandbox));
        fs::create_dir(&machine).unwrap();
        fs::write(machine.join("launch.json"), "what it was made with").unwrap();
        fs::rename(machine, self.dir(pause)).unwrap();
    }

    /// What a supervisor does for a pause, until it says that the pause is durable.
    fn commit(&mut self, pause: Pause) {
        self.told.may_be(pause.sandbox, pause.number);
        if let Err(error) = commit(&self.state, &self.dir(pause), pause) {
            panic!("committing {pause:?}: {error}");
        }
        self.told.is(pause.sandbox, pause.number);
    }

    /// What the node does when the supervisor has said how it ended.
    async fn settle(&self, pause: Pause, why: EndReason) {
        let id = pause.sandbox.parse().unwrap();
        self.paused.settle(&id, &self.dir(pause), &why).await.unwrap();
        fs::remove_dir_all(self.dir(pause)).unwrap();
    }

    async fn pause(&mut self, pause: Pause) {
        self.run(pause);
        self.commit(pause);
        self.settle(pause, EndReason::Paused(pause.build())).await;
    }

    /// Makes the build of a paused sandbox again without those of some pauses.
    async fn compact(&self, pause: Pause, without: &[Pause]) {
        let without = without.iter().map(|pause| pause.build()).collect();
        let (id, idle) = (pause.sandbox.parse().unwrap(), Arc::new(|| true));
        let outcome = make_again(&self.paused, &id, &pause.build(), without, idle).await.unwrap();
        assert!(matches!(outcome, Outcome::Committed { .. }));
        assert_ne!(self.paused.get(&id).unwrap().build, pause.build());
    }

    /// Deletes a sandbox that is paused.
    async fn kill(&mut self, pause: Pause) {
        self.told.may_be(pause.sandbox, 0);
        assert!(self.paused.forget(&pause.sandbox.parse().unwrap()).await.unwrap());
        self.told.is(pause.sandbox, 0);
    }

    /// Makes a snapshot of one that runs on, under the name of its sandbox, as supervisor, node and API do it in turn.
    async fn copy(&mut self, made: Pause) {
        self.told.may_be(made.sandbox, made.number);
        let (staged, manifest) = made.stage(&self.store());
        staged.publish(&manifest).unwrap();
        self.kept.push(self.paused.references().enter(&made.build()).await);
        let Manifest { id, shape, envd_version, .. } = manifest;
        let snapshot = NewSnapshot {
            team: self.team.id.clone(),
            name: Some(TemplateName::parse(made.sandbox).unwrap()),
            source: made.sandbox.parse().unwrap(),
            build: Build { id, shape, envd_version },
        };
        let (_, replaced) = self.catalog.put_snapshot(&snapshot).await.unwrap();
        self.forget(&replaced).await;
        self.told.is(made.sandbox, made.number);
    }

    /// Deletes a snapshot.
    async fn delete(&mut self, made: Pause) {
        self.told.may_be(made.sandbox, 0);
        let name = TemplateName::parse(made.sandbox).unwrap();
        let unnamed = self.catalog.delete_template(&self.team.id, &name).await.unwrap();
        self.forget(&unnamed).await;
        self.told.is(made.sandbox, 0);
    }

    async fn forget(&mut self, builds: &[BuildId]) {
        self.kept.retain(|hold| !builds.contains(hold.build()));
        self.paused.references().collect().await;
    }

    fn store(&self) -> LocalStore {
        LocalStore::open(&self.state.store()).unwrap()
    }
}

/// The commit of a supervisor (`supervisor::pause`): after a failure the sandbox runs on.
fn commit(state: &State, dir: &Path, pause: Pause) -> io::Result<()> {
    let store = LocalStore::open(&state.store()).map_err(io::Error::other)?;
    let (staged, manifest) = pause.stage(&store);
    staged.publish(&manifest).map_err(io::Error::other)?;
    let recorded = control::write_paused(dir, &pause.record());
    if recorded.is_err() {
        store.remove(&pause.build()).map_err(io::Error::other)?;
    }
    recorded
}

/// The story of a host from its first start to an orderly stop.
pub(super) async fn of_a_host(state: State, told: Told) {
    let mut host = Host::start(state, told).await;
    host.pause(BYSTANDER).await;
    host.pause(FIRST).await;

    // Somebody came back before the commit: the machine runs on, and is paused later.
    host.run(DIFFERENCE);
    drop(DIFFERENCE.stage(&host.store()));
    host.commit(DIFFERENCE);
    host.settle(DIFFERENCE, EndReason::Paused(DIFFERENCE.build())).await;
    host.pause(ALL_ANEW).await;

    // It dies while it runs, and is what it was.
    host.run(CRASHED);
    host.settle(CRASHED, EndReason::VmmDied("the VMM died".into())).await;

    // The server dies after the commit and has not heard of it. Its successor has.
    host.run(CRASHED);
    host.commit(CRASHED);
    let mut host = host.crash_and_start().await;

    // The kill came after the commit and before anybody was told of it.
    host.pause(KILLED).await;
    host.run(TAKEN_BACK);
    host.told.may_be(TAKEN_BACK.sandbox, TAKEN_BACK.number);
    host.told.may_be(TAKEN_BACK.sandbox, 0);
    commit(&host.state, &host.dir(TAKEN_BACK), TAKEN_BACK).unwrap();
    control::remove_paused(&host.dir(TAKEN_BACK)).unwrap();
    host.store().remove(&TAKEN_BACK.build()).unwrap();
    host.settle(TAKEN_BACK, EndReason::Killed).await;
    host.told.is(TAKEN_BACK.sandbox, 0);

    // A record in the place of another.
    host.run(TWICE);
    host.commit(TWICE);
    host.commit(TWICE_MORE);
    host.settle(TWICE_MORE, EndReason::Paused(TWICE_MORE.build())).await;

    // Its build is made again without the first, in the background. Nobody is told, and nothing changes.
    host.pause(COMPACTED).await;
    host.pause(COMPACTED_MORE).await;
    host.compact(COMPACTED_MORE, &[COMPACTED]).await;

    // A pause that cannot be recorded.
    host.told.may_be(UNRECORDED.sandbox, UNRECORDED.number);
    commit(&host.state, &host.dir(UNRECORDED), UNRECORDED).unwrap_err();
    host.told.is(UNRECORDED.sandbox, 0);

    // Snapshots of a sandbox that runs, under one name; the server dies between them.
    host.copy(COPIED).await;
    host.copy(COPIED_AGAIN).await;
    let mut host = host.crash_and_start().await;
    host.copy(COPIED_ANEW).await;
    host.copy(DELETED).await;
    host.delete(DELETED).await;

    // Paused sandboxes are killed: one long after it was paused, one right after.
    host.kill(CRASHED).await;
    host.pause(FORGOTTEN).await;
    host.kill(FORGOTTEN).await;

    // An orderly stop.
    host.catalog.close().await;
}

/// What has to be there for the other story.
pub(super) fn prepare_one_commit(state: &State) {
    fs::create_dir_all(state.sandboxes().join(UNLUCKY.sandbox)).unwrap();
    LocalStore::open(&state.store()).unwrap();
}

/// The story of one commit, which may fail. Then the sandbox runs on, and it is as if nobody had tried.
pub(super) fn of_one_commit(state: &State, mut told: Told) {
    told.may_be(UNLUCKY.sandbox, UNLUCKY.number);
    match commit(state, &state.sandboxes().join(UNLUCKY.sandbox), UNLUCKY) {
        Ok(()) => told.is(UNLUCKY.sandbox, UNLUCKY.number),
        Err(_) => told.is(UNLUCKY.sandbox, 0),
    }
}
