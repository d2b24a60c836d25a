//! What a virtual machine monitor must be able to do.
//!
//! Snapshots will need two more things of a driver, and these are their places: a running [`Vm`] that stops and gives its
//! device state away, and a launch that starts from such a state instead of a kernel.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::exit::Exit;
use crate::machine::Machine;
use crate::qmp::QmpError;

/// Starts virtual machines with one kind of monitor.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The monitor's name, as in a configuration file.
    fn name(&self) -> &'static str;

    /// Starts `machine`. The guest boots while this returns.
    ///
    /// # Errors
    /// When a part of the machine cannot be used, or the monitor cannot be started or ends before it is in control.
    /// Nothing of it is left then, also when the caller stops waiting.
    async fn launch(&self, machine: Machine) -> Result<Box<dyn Vm>, VmmError>;
}

/// A running virtual machine. Dropping it kills it.
#[async_trait]
pub trait Vm: Send + Sync {
    /// The monitor's process. The number means nothing after [`Vm::wait`] has returned.
    fn pid(&self) -> i32;

    /// Kills the monitor, and with it the guest, at once. Does nothing if it is gone already; never hits a process that
    /// got its number since.
    fn kill(&self);

    /// Returns when the monitor's process is gone. Any number of callers may wait, any number of times.
    async fn wait(&self) -> Exit;
}

/// Why a virtual machine could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmmError {
    /// The kernel or the initramfs cannot be opened.
    #[error("cannot open {} for the guest: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The monitor's program cannot be started.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A socket or a process handle cannot be had.
    #[error("cannot prepare the VMM's {what}: {source}")]
    Prepare {
        /// What failed.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The monitor ended before it was in control, and says why.
    #[error("the VMM did not start: {0}")]
    Exited(Exit),
    /// The monitor runs and cannot be talked to.
    #[error("cannot control the VMM: {0}")]
    Control(#[from] QmpError),
    /// This processor cannot do what was asked.
    #[error("{0}")]
    Unsupported(&'static str),
}
