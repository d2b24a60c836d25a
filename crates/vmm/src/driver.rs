//! What a virtual machine monitor must be able to do.
//!
//! A machine comes to run in one of two ways and may be saved whenever it does:
//!
//! ```text
//! launch(Boot) ────────────────────────────────> running <── resume ──┐
//!                                                   │                 │
//!                                                   └── pause ───> paused <──> save_state
//!                                                                     ^
//! launch(Incoming) ──> waiting for a state ──────── load_state ───────┘
//! ```
//!
//! - [`Vm::pause`]: the guest stands still, and what it wrote to its disk has reached the disk's server.
//! - [`Vm::save_state`]: everything but the memory and the disk is given away. The machine stays as it is: it may be saved
//!   again, or resumed, or ended.
//! - [`Vm::load_state`]: the machine is what the saved one was when it was paused. If this fails it is nothing, and is
//!   killed.
//! - [`Vm::resume`]: the guest goes on. To it no time has passed.
//! - When a pause, a save or a resume fails, the monitor may have done it or not: pause or resume it, or kill it. After a
//!   save that failed it may have to run before another one succeeds.
//!
//! - While debuggers are let in, one of them may have paused or resumed the machine: then each of the steps does what it
//!   does after one that failed.
//!
//! Each step has a deadline, and runs to its end also when the caller stops waiting for it: a machine is never left half
//! way. A caller that comes meanwhile waits for its turn.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::accel::Accel;
use crate::exit::Exit;
use crate::identity::Identity;
use crate::machine::Machine;
use crate::qmp::QmpError;
use crate::step::{Step, StepError};

/// Starts virtual machines with one kind of monitor.
#[async_trait]
pub trait Driver: Send + Sync {
    /// The monitor's name, as in a configuration file.
    fn name(&self) -> &'static str;

    /// What a machine that is launched now would be, as far as device states care. Asks the monitor's program the first
    /// time; the answer is kept. A running machine knows without asking: [`Vm::identity`].
    ///
    /// # Errors
    /// When the program cannot be started or does not say its version.
    async fn identity(&self, accel: Accel) -> Result<Identity, VmmError>;

    /// Starts `machine`. The guest boots while this returns, or the machine waits for a state.
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

    /// What a state that this machine saves depends on, and what one that it loads must have been saved with.
    fn identity(&self) -> &Identity;

    /// Makes the guest stand still, if it does not yet, with everything it wrote to its disk handed to the disk's server.
    ///
    /// # Errors
    /// [`VmmError::Step`], as with all of these: the monitor is gone, refuses or is late, or no state was loaded yet.
    async fn pause(&self) -> Result<(), VmmError>;

    /// The state of the paused machine's processors and devices, without its memory: some 60 KiB, of use to the same
    /// [`Identity`] only. The bytes carry no checksum.
    ///
    /// # Errors
    /// [`VmmError::Step`]; also when the machine is not paused, and when the state is longer than 64 MiB.
    async fn save_state(&self) -> Result<Vec<u8>, VmmError>;

    /// Makes a machine that was started as [`crate::Start::Incoming`] what the saved one was. It is paused then. The
    /// monitor reads some of the guest's memory for that.
    ///
    /// # Errors
    /// [`VmmError::Step`], with the monitor's own words when the state is not acceptable. The monitor is gone then, in
    /// every case.
    async fn load_state(&self, state: &[u8]) -> Result<(), VmmError>;

    /// Lets the guest run, if it does not yet; also after its state was saved.
    ///
    /// # Errors
    /// [`VmmError::Step`]; also when no state was loaded yet.
    async fn resume(&self) -> Result<(), VmmError>;

    /// Lets one debugger after the other connect to `listener`, a listening unix socket, and see and change all of the guest
    /// with the remote protocol of gdb. A guest that runs stands still as soon as one connects; from then on the debugger
    /// lets it run. It may be a machine that never ran, right after its state was loaded. Does nothing to the guest until
    /// somebody connects.
    ///
    /// # Errors
    /// [`VmmError::Step`]; also when debuggers are let in already.
    async fn let_debuggers_in(&self, listener: OwnedFd) -> Result<(), VmmError>;

    /// Cuts off whoever is connected, and lets nobody in any more. The guest stands still or runs, as the debugger left it:
    /// [`Vm::resume`] or [`Vm::pause`] it. Nothing happens when nobody is let in.
    ///
    /// # Errors
    /// [`VmmError::Step`].
    async fn keep_debuggers_out(&self) -> Result<(), VmmError>;

    /// Kills the monitor, and with it the guest, at once. Does nothing if it is gone already; never hits a process that
    /// got its number since.
    fn kill(&self);

    /// Returns when the monitor's process is gone. Any number of callers may wait, any number of times.
    async fn wait(&self) -> Exit;
}

/// Why a virtual machine could not be started, or not do what it was to do.
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
        program: String,
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
    /// The machine was launched and did not do what it was to do.
    #[error("cannot {step}: {source}")]
    Step {
        /// What that was.
        step: Step,
        /// Why.
        source: StepError,
    },
    /// The monitor's program does not say what it is.
    #[error("cannot find out the version of {program}: {reason}")]
    Version {
        /// The program.
        program: &'static str,
        /// What it did instead.
        reason: String,
    },
    /// This processor cannot do what was asked.
    #[error("{0}")]
    Unsupported(&'static str),
}
