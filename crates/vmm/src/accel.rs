//! What executes a guest's instructions.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// The processor itself, through the kernel's `/dev/kvm`.
    Kvm,
    /// QEMU, which translates them: about ten times slower, on any host.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM if a guest really runs under it, else TCG.
    Auto,
    /// KVM, untested.
    Kvm,
    /// TCG.
    Tcg,
}
