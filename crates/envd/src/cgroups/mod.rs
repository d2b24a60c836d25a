//! Control groups of the guest: the daemon stays responsive and alive whatever the sandbox's user does.
//!
//! Terminals get more of the processor than other processes, because somebody is waiting at them; neither of both may
//! take the last of the memory. What an image or kernel does not offer is left out: a sandbox without limits inside is
//! still limited from outside.

mod group;

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::statfs;

pub(crate) use self::group::Group;

/// From `linux/magic.h`.
const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
/// What the daemon keeps of the memory: an eighth, and at most this many bytes.
const MAX_RESERVE: u64 = 128 << 20;

/// The groups for processes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    user: Option<Arc<Group>>,
    terminals: Option<Arc<Group>>,
}

impl Cgroups {
    /// Makes the groups below a directory, where that is a hierarchy of version 2.
    pub(crate) fn make(root: &Path) -> Self {
        #[allow(clippy::cast_sign_loss, reason = "a magic number is bits")]
        let is_version_2 = statfs(root).is_ok_and(|stat| stat.f_type as u64 == CGROUP2_SUPER_MAGIC);
        if !is_version_2 {
            return Self::default();
        }
        // One at a time: a controller that is missing must not keep the others away.
        for controller in ["+cpu", "+memory", "+io"] {
            let _ = fs::write(root.join("cgroup.subtree_control"), controller);
        }
        let memory = memory_limit();
        let mut user = vec![("cpu.weight", "50".to_owned()), ("io.weight", "default 10".to_owned())];
        let mut terminals = vec![("cpu.weight", "200".to_owned()), ("io.weight", "default 50".to_owned())];
        for settings in [&mut user, &mut terminals] {
            if let Some(limit) = &memory {
                settings.extend([("memory.high", limit.clone()), ("memory.max", limit.clone())]);
            }
        }
        let group = |name, settings: &[_]| Group::make(&root.join(name), settings).map(Arc::new);
        Self { user: group("user", &user), terminals: group("ptys", &terminals) }
    }

    /// Where processes without a terminal go.
    pub(crate) fn user(&self) -> Option<Arc<OwnedFd>> {
        self.user.as_ref().map(|group| group.directory())
    }

    /// Where processes with a terminal go.
    pub(crate) fn terminals(&self) -> Option<Arc<OwnedFd>> {
        self.terminals.as_ref().map(|group| group.directory())
    }

    /// Both, with their names.
    pub(crate) fn all(&self) -> [(&'static str, Option<Arc<Group>>); 2] {
        [("user", self.user.clone()), ("ptys", self.terminals.clone())]
    }
}

/// All of the memory but what the daemon keeps, in bytes.
fn memory_limit() -> Option<String> {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    })? << 10;
    Some((total - (total / 8).min(MAX_RESERVE)).to_string())
}
