//! What a group's processes may use together.

use std::io;
use std::path::Path;

use crate::CgroupError;

/// The controllers that [`Limits`] needs, as they are called in `cgroup.controllers`.
pub(crate) const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// Upper bounds; `None` leaves the kernel's "no limit".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, page cache included.
    pub memory_max: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    /// Microseconds of processor time per period of so many microseconds, `(quota, period)`.
    pub cpu_max: Option<(u64, u64)>,
}

/// Which of the wanted limits are in force. The others were not asked for, or their controller is not part of the
/// v2 hierarchy of this host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of Limits")]
pub struct Applied {
    pub memory_max: bool,
    pub pids_max: bool,
    pub cpu_max: bool,
}

impl Limits {
    /// Writes the limits into a group's files.
    pub(crate) fn apply(&self, group: &Path) -> Result<Applied, CgroupError> {
        let memory = self.memory_max.map(|bytes| bytes.to_string());
        let pids = self.pids_max.map(|count| count.to_string());
        let cpu = self.cpu_max.map(|(quota, period)| format!("{quota} {period}"));
        Ok(Applied {
            memory_max: set(group, "memory.max", memory)?,
            pids_max: set(group, "pids.max", pids)?,
            cpu_max: set(group, "cpu.max", cpu)?,
        })
    }
}

/// `false` when there was nothing to write or the controller is absent.
fn set(group: &Path, name: &str, value: Option<String>) -> Result<bool, CgroupError> {
    let Some(value) = value else { return Ok(false) };
    let file = group.join(name);
    match crate::group::write_existing(&file, value.as_bytes()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(CgroupError::Limit { file, value, source }),
    }
}
