//! How a virtual machine ended.

use std::fmt;

/// How a virtual machine ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Who ended it.
    pub cause: ExitCause,
    /// The end of what the monitor wrote to its standard error; often empty.
    pub message: String,
}

/// Who ended a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitCause {
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest restarted itself, which ends it too. So does a panic of its kernel.
    GuestReset,
    /// A signal killed the monitor: ours, or the kernel's when memory ran out.
    Signal(i32),
    /// The monitor ended by itself, with this exit code.
    Monitor(i32),
    /// It is gone, and somebody else collected its status.
    Unknown,
}

impl Exit {
    /// Whether the guest ended itself, as opposed to something going wrong around it.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self.cause, ExitCause::GuestShutdown | ExitCause::GuestReset)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            ExitCause::GuestShutdown => f.write_str("the guest switched itself off")?,
            ExitCause::GuestReset => f.write_str("the guest restarted itself or its kernel panicked")?,
            ExitCause::Signal(signal) => write!(f, "the VMM was killed by signal {signal}")?,
            ExitCause::Monitor(code) => write!(f, "the VMM ended with code {code}")?,
            ExitCause::Unknown => f.write_str("the VMM is gone")?,
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        Ok(())
    }
}
