//! The file that tells a supervisor what to run.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use model::{BuildId, SandboxSpec};
use serde::{Deserialize, Serialize};

/// Name of the launch file in a sandbox's directory. It holds the sandbox's tokens: mode 0600.
pub const LAUNCH_FILE: &str = "launch.json";
/// Name of the control socket in a sandbox's directory.
pub const SOCKET_FILE: &str = "control.sock";
/// Name of the socket in a sandbox's directory to which debuggers connect, while somebody wants them to.
pub const DEBUGGER_FILE: &str = "gdb.sock";
/// The descriptor on which a supervisor inherits its listening control socket.
pub const CONTROL_FD: i32 = 3;
/// The descriptor on which a supervisor inherits its network namespace.
pub const NETNS_FD: i32 = 4;
/// No launch file is longer: metadata and environment are limited well below this by the REST surface.
const MAX_LAUNCH_BYTES: u64 = 8 << 20;

/// How guest instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// By QEMU's translator.
    Tcg,
}

/// The files a sandbox boots from; shared and never written to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BuildFiles {
    /// Uncompressed kernel ELF.
    pub kernel: PathBuf,
    /// Initial RAM file system with PID 1, envd and modules.
    pub initrd: PathBuf,
    /// Raw ext4 image.
    pub rootfs: PathBuf,
}

/// What the machine starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// A kernel boots.
    Boot(BuildFiles),
    /// The machine goes on where it was when this build was made.
    Resume(BuildId),
    /// A kernel boots from the disk of a build.
    Reboot(Reboot),
}

/// A boot in place of going on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reboot {
    /// The build whose disk it is. Nothing else of it is used.
    pub build: BuildId,
    /// Uncompressed kernel ELF.
    pub kernel: PathBuf,
    /// Initial RAM file system with PID 1, envd and modules.
    pub initrd: PathBuf,
    /// Why it does not go on, for people.
    pub why: String,
}

impl Start {
    /// The build that the machine reads from.
    #[must_use]
    pub const fn build(&self) -> Option<&BuildId> {
        match self {
            Self::Boot(_) => None,
            Self::Resume(build) | Self::Reboot(Reboot { build, .. }) => Some(build),
        }
    }
}

/// What of a build's memory is brought before it is touched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prefetch {
    /// Nothing: every page is waited for.
    Nothing,
    /// What the first moments of the last resume touched.
    #[default]
    WorkingSet,
    /// That, and when these moments are over the rest: after it the machine waits for no page any more, and holds all
    /// memory of its build.
    Everything,
}

/// What the machine is started for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// To be used.
    Run,
    /// To become this build, before anybody has used it, as soon as the guest daemon answers.
    Snapshot(BuildId),
    /// To be looked into: it is held before its first instruction, until a debugger has come and has left.
    Debug,
}

impl Goal {
    /// Whether the machine becomes a template, which is nobody's.
    #[must_use]
    pub const fn is_template(&self) -> bool {
        matches!(self, Self::Snapshot(_))
    }
}

/// Limits of the VMM's control group; each is applied where its controller exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// Bytes.
    pub memory_max: u64,
    /// Processes and threads.
    pub pids_max: u32,
    /// Microseconds of processor time per [`CgroupLimits::CPU_PERIOD_US`].
    pub cpu_quota_us: u64,
}

impl CgroupLimits {
    /// The period in which `cpu_quota_us` may be used.
    pub const CPU_PERIOD_US: u64 = 100_000;
}

/// How long each step of a start may take, in milliseconds. Separate, so that a slow boot cannot starve what follows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Deadlines {
    /// From launching the VMM until the guest daemon says that it listens.
    pub ready_ms: u64,
    /// For handing the guest daemon its identity.
    pub init_ms: u64,
}

/// Everything a supervisor must know. Written once by the node, before it starts the supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Launch {
    /// What the sandbox was asked to be.
    pub spec: SandboxSpec,
    /// When it was started, or resumed. Its lifetime is from here to the end time of the specification.
    pub running_since: Timestamp,
    /// What it starts from.
    pub start: Start,
    /// What it is started for.
    pub goal: Goal,
    /// Where builds are kept.
    pub store: PathBuf,
    /// How guest instructions are executed.
    pub accel: Accel,
    /// What of a build's memory is brought before it is touched.
    #[serde(default)]
    pub prefetch: Prefetch,
    /// Index of its network slot, so that a restarted node knows which are taken.
    pub slot: u16,
    /// Control group of this sandbox, relative to the hierarchy's root. The supervisor
    /// is started in `supervisor` of it and makes `vmm`.
    pub cgroup: PathBuf,
    /// Limits of the VMM.
    pub limits: CgroupLimits,
    /// User and group that the VMM runs as, used by no other sandbox.
    pub vmm_uid: u32,
    /// The VMM's program, in place of the one that is found in `PATH`.
    #[serde(default)]
    pub vmm: Option<PathBuf>,
    /// Name servers of the guest.
    pub dns: Vec<Ipv4Addr>,
    /// Start deadlines.
    pub deadlines: Deadlines,
    /// Neither of them holds: a machine that stands still in a debugger answers when it is let go.
    #[serde(default)]
    pub skip_envd_wait: bool,
}

/// A launch file could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("launch file {}: {source}", path.display())]
pub struct LaunchError {
    path: PathBuf,
    source: std::io::Error,
}

impl Launch {
    /// Writes the launch file of the sandbox directory `dir`, readable by its owner only.
    pub fn write(&self, dir: &Path) -> Result<(), LaunchError> {
        let path = dir.join(LAUNCH_FILE);
        let write = || {
            let json = serde_json::to_vec(self)?;
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(&json)
        };
        write().map_err(|source| LaunchError { path: path.clone(), source })
    }

    /// Reads the launch file of the sandbox directory `dir`.
    pub fn read(dir: &Path) -> Result<Self, LaunchError> {
        let path = dir.join(LAUNCH_FILE);
        let read = || {
            let size = std::fs::metadata(&path)?.len();
            if size > MAX_LAUNCH_BYTES {
                return Err(std::io::Error::other(format!(
                    "{size} bytes, more than the {MAX_LAUNCH_BYTES} allowed"
                )));
            }
            Ok(serde_json::from_slice(&std::fs::read(&path)?)?)
        };
        read().map_err(|source| LaunchError { path: path.clone(), source })
    }
}
