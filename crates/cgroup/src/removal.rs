//! Removing a group for good.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::hierarchy::child_names;
use crate::{CgroupError, Group};

/// How long a group that could not be removed at once is tried again: killed processes need a moment to die.
pub const REMOVAL_DEADLINE: Duration = Duration::from_secs(2);
/// The pause before the second attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Deeper trees of groups are not ours; also bounds the recursion.
const MAX_DEPTH: usize = 16;

/// How a group went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It was empty, or gone already.
    Clean,
    /// Something was still in it.
    Forced {
        /// From the first attempt to the one that succeeded.
        waited: Duration,
        /// Whether `cgroup.kill` was there to help.
        killed_via_cgroup: bool,
    },
}

impl Group {
    /// Removes the group and those below it. Processes still inside are killed; that it came to this is logged with
    /// `owner`, the id of the sandbox. Dropping the future stops the attempts, as `cancel` does.
    ///
    /// # Errors
    /// [`CgroupError::StillBusy`] after [`REMOVAL_DEADLINE`]; [`CgroupError::Cancelled`].
    pub async fn remove(self, owner: &str, cancel: &CancellationToken) -> Result<Removal, CgroupError> {
        let Err(mut last) = remove_tree(self.path(), MAX_DEPTH) else { return Ok(Removal::Clean) };
        let begun = Instant::now();
        let group = self.path().display();
        tracing::warn!(sandbox = owner, %group, error = %last, "control group not removable; killing what is in it");

        let killed_via_cgroup = self.kill().unwrap_or_else(|error| {
            tracing::warn!(sandbox = owner, %group, %error, "cgroup.kill failed");
            false
        });
        let mut pause = FIRST_PAUSE;
        loop {
            let left = REMOVAL_DEADLINE.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let holders = self.holders();
                return Err(CgroupError::StillBusy {
                    path: self.path().to_owned(),
                    waited: begun.elapsed(),
                    source: last,
                    holders,
                });
            }
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    let path = self.path().to_owned();
                    return Err(CgroupError::Cancelled { path, waited: begun.elapsed(), source: last });
                }
                () = tokio::time::sleep(pause.min(left)) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match remove_tree(self.path(), MAX_DEPTH) {
                Ok(()) => return Ok(Removal::Forced { waited: begun.elapsed(), killed_via_cgroup }),
                Err(error) => last = error,
            }
        }
    }

    /// Who is in the group, for an error message.
    fn holders(&self) -> String {
        match self.procs() {
            Ok(pids) if pids.is_empty() => "no processes of its own".to_owned(),
            Ok(pids) => {
                let pids: Vec<_> = pids.iter().map(|pid| pid.as_raw_nonzero().to_string()).collect();
                format!("processes {}", pids.join(" "))
            }
            Err(error) => format!("its processes are unknown: {error}"),
        }
    }
}

/// One attempt, depth first. One system call when there are no children. A group that is gone counts as removed.
fn remove_tree(group: &Path, depth: usize) -> io::Result<()> {
    let refused = match fs::remove_dir(group) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => error,
    };
    // Processes and child groups give the same answer (EBUSY); only a look tells them apart.
    let children = match child_names(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        names => names?,
    };
    if children.is_empty() || depth == 0 {
        return Err(refused);
    }
    for child in &children {
        remove_tree(&group.join(child), depth - 1)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
