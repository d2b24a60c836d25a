//! Starts a program with everything set up between clone and exec, without a helper program in between.
//!
//! The child is made with `clone3(CLONE_VM | CLONE_VFORK)`: it borrows our memory and stops this thread until it has
//! become the program or has ended. Nothing is copied, so it costs the same however large the caller is, and the child
//! can tell what went wrong by writing it down. The price is a strict rule: until exec the child must not allocate,
//! lock, panic or change what the caller will read. So all it needs is laid out before it exists (`plan`), and all it
//! does is a list of system calls (`child`), on a stack of its own.
//!
//! Two properties of the kernel make that safe for a daemon that changes its user here. Changing credentials marks the
//! shared memory as not dumpable, so nobody who owns the new user can trace the child and reach the daemon through it.
//! And an out-of-memory score set by a child made with `CLONE_VFORK` stays the child's own.
//!
//! On processors other than x86-64 the child gets a copy of the memory instead (no `CLONE_VM`); all else is the same.

mod child;
mod clone;
mod plan;

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// A program to start. Everything is owned, so that it can be sent to a thread that may block.
#[derive(Debug)]
pub struct Request {
    /// Path, or a name to look up in the `PATH` of [`env`](Self::env).
    pub program: OsString,
    /// Arguments, without the program's own name.
    pub args: Vec<OsString>,
    /// The complete environment. Of several values for one name the last one counts.
    pub env: Vec<(OsString, OsString)>,
    /// Directory to start in. Entered as the new user, who must be allowed to.
    pub cwd: PathBuf,
    /// Who to become; nobody else when absent.
    pub credentials: Option<Credentials>,
    /// What becomes descriptor 0.
    pub stdin: OwnedFd,
    /// What becomes descriptor 1.
    pub stdout: OwnedFd,
    /// What becomes descriptor 2.
    pub stderr: OwnedFd,
    /// Whether to start a session whose controlling terminal is standard input.
    pub controlling_terminal: bool,
    /// How willing the kernel should be to kill it, -1000 to 1000. Best effort.
    pub oom_score_adj: Option<i16>,
    /// Priority for the processor, -20 (high) to 19. Best effort.
    pub nice: Option<i8>,
    /// Priority for disks in the best-effort class, 0 (high) to 7. Best effort.
    pub io_priority: Option<u8>,
    /// How many files it may have open. Best effort.
    pub open_files: Option<OpenFiles>,
    /// The cgroup (version 2 directory) to be born in. Best effort.
    pub cgroup: Option<Arc<OwnedFd>>,
}

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All group ids.
    pub groups: Vec<u32>,
}

/// How many files a process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// What counts.
    pub soft: u64,
    /// Up to where the process may raise that itself.
    pub hard: u64,
}

/// A program that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id. It stays taken until the child is waited for.
    pub pid: u32,
    /// Refers to exactly this process, whatever becomes of the id. Readable once the process has ended.
    pub pidfd: OwnedFd,
}

/// What was being done when starting a program failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Laying out the arguments: one of them holds a NUL byte.
    Arguments,
    /// Making memory or the process.
    Clone,
    /// Entering the session and taking its terminal.
    Terminal,
    /// Putting descriptors 0 to 2 in place.
    Descriptors,
    /// Becoming the user.
    Credentials,
    /// Entering the directory.
    Directory,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arguments => "pass the arguments",
            Self::Clone => "create a process",
            Self::Terminal => "take the terminal",
            Self::Descriptors => "put standard input and output in place",
            Self::Credentials => "become the user",
            Self::Directory => "enter the directory",
        })
    }
}

/// A program that could not be started.
#[derive(Debug)]
pub struct SpawnError {
    /// What was being done.
    pub stage: Stage,
    /// Why it failed.
    pub error: io::Error,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.stage, self.error)
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Starts a program. Blocks until it runs, which may need the disk: call it where blocking is allowed.
///
/// A program that does not exist or cannot be executed is not an error here but as in a shell: the process says so on its
/// standard error and ends with code 127 or 126.
///
/// # Errors
/// [`SpawnError`] with the stage that failed. No process is left behind then.
pub fn spawn(request: Request) -> Result<Spawned, SpawnError> {
    let plan = plan::Plan::new(request)?;
    clone::start(&plan)
}

#[cfg(test)]
mod tests;
