//! One sandbox's control group: limits, kill, and a removal that never leaves anything behind.
//!
//! Only cgroup v2 is used, wherever it is mounted: alone at `/sys/fs/cgroup`, or beside v1 at
//! `/sys/fs/cgroup/unified`, where the controllers usually belong to v1 and groups can hold and kill processes
//! but not limit them. [`Group::applied`] says which limits are in force.
//!
//! # Removal
//! ```text
//! rmdir ──ok──> Clean                      (silent: what happens nearly always)
//!   └─fails─> warn with the first error ─> cgroup.kill ─> rmdir again, 1 ms … 200 ms apart
//!                                                           ├─ok──────> Forced
//!                                                           ├─2 s─────> StillBusy
//!                                                           └─cancel──> Cancelled
//! ```
//! A group that is already gone is removed; child groups go before their parent.
#![forbid(unsafe_code)]

mod error;
mod group;
mod hierarchy;
mod limits;
mod mountinfo;
mod removal;

pub use error::CgroupError;
pub use group::Group;
pub use hierarchy::Hierarchy;
pub use limits::{Applied, Limits};
pub use removal::{REMOVAL_DEADLINE, Removal};
