//! Following supervisors: those this server started and those it found.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cgroup::{Hierarchy, Removal};
use control::{Client, Event, Launch, Status};
use model::EndReason;
use network::InstanceTag;
use tokio::sync::watch;

use crate::admission::Room;
use crate::entry::{Entry, View};
use crate::metrics::NodeMetrics;
use crate::node::Node;
use crate::process::SupervisorProcess;
use crate::release::{Holdings, remove_group};

/// Lines of the supervisor's own log that are repeated in the server's when a sandbox failed.
const LAST_WORDS: usize = 12;

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
    let mut found = Vec::new();
    for dir in std::fs::read_dir(sandboxes)? {
        let dir = dir?.path();
        match survivor(&dir).await {
            Ok(survivor) => found.push(survivor),
            Err(why) => tracing::info!(dir = %dir.display(), why, "a sandbox did not survive: reclaiming it"),
        }
    }
    Ok(found)
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
    let instance = crate::start::instance_cgroup(tag);
    match hierarchy.children(&instance) {
        Ok(groups) => {
            for group in groups.iter().filter(|group| !alive.contains(group.as_str())) {
                match remove_group(hierarchy, group, &instance.join(group)).await {
                    Ok(Removal::Clean) => {}
                    Ok(Removal::Forced { .. }) => metrics.cgroup_forced(),
                    Err(error) => tracing::error!(group, %error, "removing a leftover control group failed"),
                }
            }
        }
        Err(error) => tracing::error!(%error, "looking for leftover control groups failed"),
    }
    let slots = survivors.iter().map(|survivor| survivor.launch.slot).collect();
    if let Err(error) = host.reclaim(&slots).await {
        tracing::error!(%error, "removing leftover network slots failed");
    }
    let Ok(dirs) = std::fs::read_dir(sandboxes) else { return };
    for dir in dirs.flatten().filter(|dir| !dir.file_name().to_str().is_some_and(|name| alive.contains(name))) {
        if let Err(error) = std::fs::remove_dir_all(dir.path()) {
            tracing::error!(dir = %dir.path().display(), %error, "removing a leftover sandbox directory failed");
        }
    }
}

impl Node {
    /// Takes over a sandbox of a predecessor.
    pub(crate) fn adopt(&self, survivor: Survivor) {
        let Survivor { launch, dir, status, process, netns } = survivor;
        let id = launch.spec.id.clone();
        let room = self.shared.admission.room_for_running(launch.spec.shape.memory);
        let holdings =
            Holdings { id: id.clone(), process: Some(process), cgroup: launch.cgroup, slot: Some(launch.slot), dir };
        let Status { phase, end_at, envd_version, .. } = status;
        let first = View { phase, end_at, envd_version, ended: None };
        self.tend(Arc::new(launch.spec), Arc::new(netns), holdings, room, first);
        tracing::info!(sandbox = %id, %end_at, ?phase, "adopted a sandbox");
    }
}

/// Follows a supervisor's events to its end, then releases everything.
pub(crate) async fn follow(
    node: Node,
    entry: Arc<Entry>,
    view: watch::Sender<View>,
    holdings: Holdings,
    room: Room,
) {
    let id = &entry.spec.id;
    let metrics = &node.shared.metrics;
    let mut had_run = view.borrow().phase == control::Phase::Running;
    if had_run {
        metrics.adopted();
    }
    let why = loop_events(&entry, &view, &mut had_run, metrics).await.unwrap_or_else(|error| {
        tracing::warn!(sandbox = %id, error, "the supervisor ended without a word");
        EndReason::SupervisorDied
    });
    // From here on clients are told that it does not exist.
    view.send_modify(|view| view.ended = Some(why.clone()));
    if matches!(why, EndReason::StartFailed(_) | EndReason::VmmDied(_) | EndReason::SupervisorDied) {
        tracing::warn!(sandbox = %id, ?why, last_words = last_words(&entry.dir), "the sandbox failed");
    } else {
        tracing::info!(sandbox = %id, ?why, "the sandbox ended");
    }
    metrics.ended(&why, had_run);
    node.shared.releaser.release(holdings).await;
    node.remove(id);
    drop(room);
    entry.released.cancel();
}

async fn loop_events(
    entry: &Entry,
    view: &watch::Sender<View>,
    had_run: &mut bool,
    metrics: &NodeMetrics,
) -> Result<EndReason, String> {
    let mut events = entry.client.events().await.map_err(|error| error.to_string())?;
    loop {
        match events.next().await.map_err(|error| error.to_string())? {
            Some(Event::Status(status)) => {
                if status.phase == control::Phase::Running && !std::mem::replace(had_run, true) {
                    metrics.started();
                }
                view.send_modify(|view| {
                    view.phase = status.phase;
                    view.end_at = status.end_at;
                    view.envd_version = status.envd_version;
                });
            }
            Some(Event::Ended { why, forced }) => {
                if forced {
                    metrics.cgroup_forced();
                }
                return Ok(why);
            }
            None => return Err("its event stream closed".into()),
        }
    }
}

/// The end of the supervisor's log; its directory is deleted next.
fn last_words(dir: &Path) -> String {
    let text = std::fs::read(dir.join("supervisor.log")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(8192)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
}
