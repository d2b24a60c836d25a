//! The trait every virtual machine monitor implements, its QEMU driver, and the accelerator probe.
//!
//! A caller puts a [`Machine`] together, hands it to a [`Driver`] and gets a [`Vm`]: a running process whose end it can
//! await and cause. Nothing in a [`Machine`] knows which monitor will run it. What a machine is made of arrives as open
//! descriptors, so the monitor needs no path, and may run as a user who can open none.
//!
//! A machine can be paused and its device state saved; with its memory and its disk, which are the caller's anyway, that
//! is all of it, and another process goes on with it. The memory is no part of the state: a monitor that shares it writes
//! and reads some 60 KiB, whatever the guest's size.
//!
//! [`choose`] finds out whether this host can run guests on its processor (KVM) or has to translate them (TCG), by
//! running one.
#![forbid(unsafe_code)]

mod accel;
mod driver;
mod exit;
mod identity;
mod machine;
mod probe;
mod process;
mod qemu;
mod qmp;
mod step;

pub use accel::{Accel, AccelChoice};
pub use driver::{Driver, Vm, VmmError};
pub use exit::{Exit, ExitCause};
pub use guest_memory::GuestMemory;
pub use identity::Identity;
pub use machine::{Confinement, Machine, Preload, RootDisk, Start};
pub use probe::{AccelVerdict, choose};
pub use qemu::{Qemu, bare_command_line};
pub use qmp::QmpError;
pub use step::{Step, StepError};
