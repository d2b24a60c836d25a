//! What can go wrong with the network of sandboxes.

use std::io;
use std::path::PathBuf;

use crate::Subnet;

/// Why a part of the network was not made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A request to the kernel's routing sockets was refused.
    #[error("failed to {attempt}: {source}")]
    Netlink {
        /// What was attempted, on what.
        attempt: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file or a system call.
    #[error("failed to {attempt}: {source}")]
    Io {
        /// What was attempted, on what.
        attempt: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The packet filter's tool is not installed.
    #[error("the program `nft` is not installed; `apt install nftables` provides it")]
    NoNft,
    /// The packet filter was refused.
    #[error("nft refused the packet filter of {table}: {message}")]
    Nft {
        /// The table.
        table: String,
        /// What nft printed.
        message: String,
    },
    /// The addresses for sandbox links are in use on this host.
    #[error(
        "the range {subnet} for sandbox links overlaps the host's route to {route}{via}; configure another range"
    )]
    Conflict {
        /// The range.
        subnet: Subnet,
        /// Where the route leads.
        route: Subnet,
        /// The device of the route, if it has one, as " by DEVICE".
        via: String,
    },
    /// All default ranges are in use on this host.
    #[error(
        "each /16 network of 10.64.0.0/10 overlaps a route of this host; configure a range for sandbox links"
    )]
    NoFreeRange,
    /// The range of addresses has no room for a slot of that number.
    #[error("slot {index} does not fit into {subnet}")]
    NoAddress {
        /// The slot.
        index: u16,
        /// The range.
        subnet: Subnet,
    },
    /// There is a slot of that number already.
    #[error("network slot {index} exists already ({path})")]
    SlotExists {
        /// The slot.
        index: u16,
        /// Its namespace.
        path: PathBuf,
    },
    /// There is no slot of that number.
    #[error("network slot {index} does not exist ({path})")]
    NoSlot {
        /// The slot.
        index: u16,
        /// Where its namespace would be.
        path: PathBuf,
    },
    /// The thread that did the work ended without an answer.
    #[error("the thread that was to {attempt} died")]
    Died {
        /// What was attempted.
        attempt: &'static str,
    },
}

impl NetworkError {
    /// For `map_err`.
    pub(crate) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        |source| Self::Io { attempt, source }
    }

    /// For `map_err` on calls that answer with an error number.
    pub(crate) fn errno(attempt: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let attempt = attempt.into();
        |source| Self::Io { attempt, source: source.into() }
    }
}
