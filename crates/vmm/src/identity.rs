//! Which monitor a device state belongs to.

use crate::accel::Accel;

/// What must be the same where a device state is saved and where it is loaded.
///
/// Nothing warns of a difference: a monitor may load a state that it misunderstands, and the guest breaks later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The driver's name.
    pub name: String,
    /// The monitor's version with that of its package, in its own words.
    pub version: String,
    /// What executes the instructions.
    pub accel: Accel,
    /// The processor that the guest sees. Under KVM it is the host's: its model and a checksum of its features.
    pub cpu: String,
    /// The kind of machine and a number for how ours are put together.
    pub machine: String,
}
