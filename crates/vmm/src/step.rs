//! What is done to a machine that runs, and why it may fail.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::exit::Exit;
use crate::qmp::QmpError;

/// What a machine was to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Stand still.
    Pause,
    /// Give its device state away.
    SaveState,
    /// Take over the device state of another.
    LoadState,
    /// Run.
    Resume,
    /// Let debuggers in.
    LetDebuggersIn,
    /// Let none in any more.
    KeepDebuggersOut,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pause => "pause the machine",
            Self::SaveState => "save the machine's device state",
            Self::LoadState => "load a device state into the machine",
            Self::Resume => "resume the machine",
            Self::LetDebuggersIn => "let debuggers into the machine",
            Self::KeepDebuggersOut => "keep debuggers out of the machine",
        })
    }
}

/// Why a machine did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The machine is not in the right condition: a mistake of the caller's.
    #[error("{0}")]
    Condition(&'static str),
    /// The monitor cannot be talked to, or refused.
    #[error(transparent)]
    Control(#[from] QmpError),
    /// The socket through which the state goes failed.
    #[error("the stream of the state failed: {0}")]
    Stream(#[from] io::Error),
    /// The monitor sends more than any device state is long.
    #[error("the state is longer than {limit} bytes")]
    TooLong {
        /// How long it may be.
        limit: u64,
    },
    /// The monitor tried and failed. It runs, and says why.
    #[error("the VMM failed: {0}")]
    Failed(String),
    /// The monitor needs too long.
    #[error("the VMM was not done within {seconds} s", seconds = limit.as_secs())]
    Timeout {
        /// How long it had.
        limit: Duration,
    },
    /// The monitor ended instead, and says why.
    #[error("{0}")]
    Exited(Exit),
}
