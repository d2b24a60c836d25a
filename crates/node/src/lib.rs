//! Everything that runs on this host.
//!
//! ```text
//!   create ─> admission ─> network slot ─> directory + launch file ─> supervisor process ─> Running
//!                                                                         │ its event stream ends
//!                                                                         v
//!                              release: process, control group, slot, directory, admission
//! ```
//!
//! The node holds no truth of its own: what a sandbox is stands in its launch file, how it is doing its supervisor
//! knows. So a server that is killed and started again finds every sandbox where it left it ([`Node::start`] adopts
//! what answers and reclaims what does not).
//!
//! A paused sandbox is a record in the catalog and a build in the store; resuming it is a create from that build. Templates
//! are builds too: every create is a resume.
//!
//! Releasing is written once, in [`release`](self), and is used for a sandbox that ended, for one that never started,
//! and for what a crashed predecessor left.
#![forbid(unsafe_code)]

mod admission;
mod adopt;
mod compaction;
mod config;
#[cfg(test)]
mod damage;
mod durable;
mod entry;
mod fleet;
mod follow;
mod machines;
mod metrics;
mod node;
mod operator;
mod paused;
#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod power_cut;
mod process;
mod reboot;
mod references;
mod release;
mod remove;
mod repeat;
mod slots;
mod start;
mod template;
mod wake;

pub use config::{Builds, NodeConfig};
pub use metrics::NodeMetrics;
pub use node::{Node, NodeError, Reachable};
pub use operator::Held;
pub use paused::Records;
pub use remove::remove_everything;
