//! What a node is told when it starts.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use control::{Accel, BuildFiles, Prefetch};
use model::{BuildId, MiB};

/// Finds the files of a build.
pub trait Builds: Send + Sync + 'static {
    /// Where the files of `build` are, or why they cannot be used, in words for the operator.
    fn files(&self, build: &BuildId) -> Result<BuildFiles, String>;
}

/// Limits and places of one node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// One private directory per sandbox is made in here. Not longer than 70 bytes: unix socket paths are short.
    pub sandboxes: PathBuf,
    /// Where builds are kept.
    pub store: PathBuf,
    /// The binary that is started as supervisor.
    pub binary: PathBuf,
    /// Keeps what two instances on one host create apart.
    pub tag: network::InstanceTag,
    /// How guest instructions are executed.
    pub accel: Accel,
    /// The VMM's program, in place of the one that is found in `PATH`.
    pub vmm: Option<PathBuf>,
    /// What of a build's memory is brought before it is touched.
    pub prefetch: Prefetch,
    /// Name servers of the guests.
    pub dns: Vec<Ipv4Addr>,
    /// Most sandboxes at once.
    pub max_sandboxes: usize,
    /// Guest memory of all sandboxes together.
    pub memory: MiB,
    /// Most sandboxes that boot at the same time: more only makes each of them slower.
    pub concurrent_starts: usize,
    /// Most creates that wait for their turn to boot.
    pub start_queue: usize,
    /// How long a create waits for its turn.
    pub start_patience: Duration,
    /// Network slots that are kept ready.
    pub slots_ahead: usize,
    /// Machines that are kept standing by, so that a sandbox waits for no VMM to start.
    pub machines_ahead: usize,
    /// Start deadline: the guest daemon answers.
    pub ready: Duration,
    /// Start deadline: the guest daemon took its identity.
    pub init: Duration,
}
