//! Following supervisors: those this server started and those it found.

use std::collections::HashSet;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cgroup::{Hierarchy, Removal};
use control::{Client, Launch, Phase, Status};
use futures_util::future::join_all;
use model::EndReason;
use network::InstanceTag;
use tokio::sync::watch;

use crate::admission::Room;
use crate::entry::{Entry, View};
use crate::follow::{Ending, Following};
use crate::metrics::NodeMetrics;
use crate::node::Node;
use crate::paused::Paused;
use crate::process::{SUPERVISOR_LOG, SupervisorProcess};
use crate::release::{Holdings, Leave, remove_group};
use crate::start::Run;

/// Between two attempts to write down what became of a sandbox.
const SETTLE_PAUSE: Duration = Duration::from_secs(2);
/// Lines of the supervisor's own log that are repeated in the server's when a sandbox failed.
const LAST_WORDS: usize = 12;
/// They are looked for in this much of the end of it.
const LAST_BYTES: u64 = 8 << 10;

/// A supervisor of a predecessor that still answers.
pub(crate) struct Survivor {
    pub(crate) launch: Launch,
    pub(crate) dir: PathBuf,
    status: Status,
    pub(crate) process: SupervisorProcess,
    netns: OwnedFd,
}

/// Looks through the sandbox directories for supervisors that answer.
pub(crate) async fn survivors(sandboxes: &Path) -> io::Result<Vec<Survivor>> {
    let dirs: Vec<PathBuf> =
        std::fs::read_dir(sandboxes)?.map(|dir| Ok(dir?.path())).collect::<io::Result<_>>()?;
    // All at once: the hung ones each take as long as they are waited for.
    let found = join_all(dirs.iter().map(|dir| survivor(dir))).await;
    let survived = |(dir, found): (&PathBuf, Result<Survivor, String>)| match found {
        Ok(survivor) => Some(survivor),
        Err(why) => {
            tracing::info!(dir = %dir.display(), why, "a sandbox did not survive: reclaiming it");
            None
        }
    };
    Ok(dirs.iter().zip(found).filter_map(survived).collect())
}

async fn survivor(dir: &Path) -> Result<Survivor, String> {
    let launch = Launch::read(dir).map_err(|error| error.to_string())?;
    let status = Client::new(dir).status().await.map_err(|error| error.to_string())?;
    if status.id != launch.spec.id {
        return Err(format!("its supervisor says that it is {}", status.id));
    }
    let process = SupervisorProcess::open(status.supervisor_pid).map_err(|error| error.to_string())?;
    // The namespace in which the supervisor lives: by whatever name it is known, it is the right one.
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", status.supervisor_pid))
        .map_err(|error| format!("opening its network namespace: {error}"))?;
    Ok(Survivor { launch, dir: dir.to_owned(), status, process, netns: netns.into() })
}

/// Removes what a predecessor left beside the survivors: processes, groups, namespaces, links, files. Failures are
/// logged; nothing that is left stops a new sandbox from getting names of its own.
pub(crate) async fn reclaim(
    sandboxes: &Path,
    tag: InstanceTag,
    hierarchy: &Hierarchy,
    host: &network::Host,
    survivors: &[Survivor],
    metrics: &NodeMetrics,
) {
    let alive: HashSet<&str> = survivors.iter().map(|survivor| survivor.launch.spec.id.as_str()).collect();
    // A machine that stood by has its group under a name of its own.
    let groups_in_use: HashSet<&str> = survivors
        .iter()
        .filter_map(|survivor| survivor.launch.cgroup.file_name().and_then(std::ffi::OsStr::to_str))
        .collect();
    let instance = crate::start::instance_cgroup(tag);
    match hierarchy.children(&instance) {
        Ok(groups) => {
            for group in groups.iter().filter(|group| !groups_in_use.contains(group.as_str())) {
                match remove_group(hierarchy, group, &instance.join(group)).await {
                    Ok(Removal::Clean) => {}
                    Ok(Removal::Forced { .. }) => metrics.cgroup_forced(),
                    Err(error) => tracing::error!(group, %error, "removing a leftover control group failed"),
                }
            }
        }
        // The first start of this instance.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(%error, "looking for leftover control groups failed"),
    }
    let slots = survivors.iter().map(|survivor| survivor.launch.slot).collect();
    if let Err(error) = host.reclaim(&slots).await {
        tracing::error!(%error, "removing leftover network slots failed");
    }
    let Ok(dirs) = std::fs::read_dir(sandboxes) else { return };
    for dir in dirs.flatten().filter(|dir| !dir.file_name().to_str().is_some_and(|name| alive.contains(name)))
    {
        let path = dir.path();
        if path.join(control::PAUSED_FILE).exists() {
            tracing::warn!(dir = %path.display(), "it holds a pause that the catalog does not have yet: it stays");
            continue;
        }
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::error!(dir = %path.display(), %error, "removing a leftover sandbox directory failed");
        }
    }
}

/// Enters the pauses that were committed and that no server has taken note of, before their directories are removed.
pub(crate) async fn enter_pauses(
    sandboxes: &Path,
    survivors: &[Survivor],
    paused: &Paused,
) -> Result<(), String> {
    let alive: HashSet<&Path> = survivors.iter().map(|survivor| survivor.dir.as_path()).collect();
    let dirs = std::fs::read_dir(sandboxes).map_err(|error| error.to_string())?;
    for dir in dirs.flatten().map(|dir| dir.path()).filter(|dir| !alive.contains(dir.as_path())) {
        match control::read_paused(&dir) {
            Ok(None) => {}
            Ok(Some(record)) => {
                tracing::info!(sandbox = %record.spec.id, build = %record.build, "entering a pause of a predecessor");
                paused.record(record).await?;
                control::remove_paused(&dir).map_err(|error| error.to_string())?;
            }
            Err(error) => paused.put_aside(&dir, &error).await?,
        }
    }
    Ok(())
}

impl Node {
    /// Takes over a sandbox of a predecessor.
    pub(crate) fn adopt(&self, survivor: Survivor) {
        let Survivor { launch, dir, status, process, netns } = survivor;
        let id = launch.spec.id.clone();
        let room = self.shared.admission.room_for_running(launch.spec.shape.memory);
        let holdings = Holdings {
            id: id.clone(),
            process: Some(process),
            cgroup: launch.cgroup,
            slot: Some(launch.slot),
            dir,
        };
        let Status { phase, end_at, envd_version, .. } = status;
        let first = View { phase, end_at, envd_version, pausing: phase == Phase::Pausing, ended: None };
        let references = self.shared.paused.references();
        // Which of its own it reads from, only its supervisor knows.
        let mut needed = references.hold_all_of(&id);
        needed.extend(launch.start.build().map(|build| references.hold(build)));
        let run = Run {
            start: launch.start,
            needed,
            resumed: self.shared.paused.get(&id).is_some(),
            running_since: launch.running_since,
            spec: Arc::new(launch.spec),
        };
        self.tend(run, Arc::new(netns), holdings, room, first);
        tracing::info!(sandbox = %id, %end_at, ?phase, "adopted a sandbox");
    }
}

/// Follows a supervisor to its end, then releases everything.
pub(crate) async fn follow(
    node: Node,
    entry: Arc<Entry>,
    view: watch::Sender<View>,
    holdings: Holdings,
    room: Room,
) {
    // Also when this task panics: somebody waits for it.
    let released = entry.released.clone().drop_guard();
    let id = &entry.spec.id;
    let metrics = &node.shared.metrics;
    let mut following = Following::new(&entry, &view, &node.shared);
    let Ending { why, leave } = following.until_over(holdings.process.as_ref()).await;
    let had_run = following.had_run;
    if let (EndReason::MemoryUnusable(why), Some(build)) = (&why, entry.start.build()) {
        node.shared.paused.references().damaged(build, why);
    }
    node.settle(&entry, &why).await;
    // From here on clients are told that it does not exist, or is paused.
    view.send_modify(|view| view.ended = Some(why.clone()));
    node.tell_ended(id);
    let failed = matches!(
        why,
        EndReason::StartFailed(_)
            | EndReason::VmmDied(_)
            | EndReason::MemoryUnusable(_)
            | EndReason::SupervisorDied
    );
    if failed {
        tracing::warn!(sandbox = %id, ?why, last_words = last_words(&entry.dir), "the sandbox failed");
    } else {
        tracing::info!(sandbox = %id, ?why, "the sandbox ended");
    }
    metrics.ended(&why, had_run);
    node.shared.releaser.release(holdings, leave).await;
    if leave == Leave::Forced || why == EndReason::SupervisorDied {
        // It may have been writing.
        node.shared.paused.clean().await;
    }
    node.remove(id);
    entry.let_go();
    let references = node.shared.paused.references();
    references.find_all_of(id).await;
    references.collect().await;
    drop(room);
    drop(released);
    // Only now: whoever waits for the sandbox comes first.
    if node.shared.paused.get(id).is_some() {
        node.shared.waiting.tell(id);
    }
}

impl Node {
    /// Keeps the record of a sandbox up to date with its end.
    ///
    /// Tried until it is done: the directory, which is deleted next, has the only other copy of what a client was told.
    async fn settle(&self, entry: &Entry, why: &EndReason) {
        let id = &entry.spec.id;
        while let Err(error) = self.shared.paused.settle(id, &entry.dir, why).await {
            tracing::error!(sandbox = %id, ?why, error, "keeping the record of the sandbox up to date failed; trying again");
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }
}

/// The end of the supervisor's log; its directory is deleted next.
fn last_words(dir: &Path) -> String {
    let read = || {
        let mut file = std::fs::File::open(dir.join(SUPERVISOR_LOG))?;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(LAST_BYTES)))?;
        let mut text = Vec::new();
        file.take(LAST_BYTES).read_to_end(&mut text)?;
        io::Result::Ok(text)
    };
    let text = String::from_utf8_lossy(&read().unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
}
