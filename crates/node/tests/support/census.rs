//! What of a node's sandboxes exists on this host.

use std::fs;
use std::path::Path;

use cgroup::Hierarchy;
use network::InstanceTag;

/// Names of all that is there: directories, control groups, namespaces, links. Empty when nothing is left.
pub(crate) fn take(sandboxes: &Path, tag: InstanceTag) -> Vec<String> {
    let slot = format!("cf{tag}-");
    let mut found = names(sandboxes, "directory", |_| true);
    found.extend(names(Path::new("/run/netns"), "namespace", |name| name.starts_with(&slot)));
    found.extend(names(Path::new("/sys/class/net"), "link", |name| name.starts_with(&slot)));
    let instance = format!("coldframe-{tag}");
    let groups = Hierarchy::discover().unwrap().children(Path::new(&instance)).unwrap_or_default();
    found.extend(groups.iter().map(|group| format!("control group {group}")));
    found
}

fn names(dir: &Path, kind: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| wanted(name)).map(|name| format!("{kind} {name}")).collect()
}

/// The letter of proc(5), `None` when there is no such process.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

/// Whether it runs, sleeps or is stopped: a zombie does not count.
pub(crate) fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Our children that nobody collected.
pub(crate) fn zombie_children() -> Vec<i32> {
    let mut zombies = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        zombies.extend(pids.filter(|pid| state(*pid) == Some('Z')));
    }
    zombies
}
