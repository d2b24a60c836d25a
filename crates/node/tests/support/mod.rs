//! A node with real supervisors and real VMMs, whose guests' daemons are played by this process.

mod census;
mod daemon;
mod rig;

pub(crate) use census::{is_alive, zombie_children};
pub(crate) use rig::{Rig, run_for};
