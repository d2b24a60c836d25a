//! The trait every virtual machine monitor implements, its QEMU driver, and the accelerator probe.
//!
//! A caller puts a [`Machine`] together, hands it to a [`Driver`] and gets a [`Vm`]: a running process whose end it can
//! await and cause. Nothing in a [`Machine`] knows which monitor will run it. What a machine is made of arrives as open
//! descriptors, so the monitor needs no path, and may run as a user who can open none.
//!
//! [`choose`] finds out whether this host can run guests on its processor (KVM) or has to translate them (TCG), by
//! running one.
#![forbid(unsafe_code)]

mod accel;
mod driver;
mod exit;
mod machine;
mod memory;
mod probe;
mod process;
mod qemu;
mod qmp;

pub use accel::{Accel, AccelChoice};
pub use driver::{Driver, Vm, VmmError};
pub use exit::{Exit, ExitCause};
pub use machine::{Confinement, Machine, RootDisk};
pub use memory::GuestMemory;
pub use probe::{AccelVerdict, choose};
pub use qemu::{Qemu, bare_command_line};
pub use qmp::QmpError;
