//! One sandbox's place in the network.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use model::NetworkPolicy;

use crate::netlink::Netlink;
use crate::ruleset::UPLINK;
use crate::subnet::Pair;
use crate::{InstanceTag, NetworkError, named, namespace, survey};

/// A namespace with a tap for the guest and a link to the host. A handle: dropping it leaves the slot as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    tag: InstanceTag,
    index: u16,
}

impl Slot {
    pub(crate) fn new(tag: InstanceTag, index: u16) -> Self {
        Self { tag, index }
    }

    /// The slot of that number, made by an earlier run of the instance.
    ///
    /// # Errors
    /// [`NetworkError::NoSlot`] when there is none; [`NetworkError::Io`] when its namespace cannot be opened.
    pub fn adopt(tag: InstanceTag, index: u16) -> Result<Self, NetworkError> {
        let slot = Self::new(tag, index);
        let netns = match slot.open_netns() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NetworkError::NoSlot { index, path: slot.path() });
            }
            opened => opened.map_err(NetworkError::io(format!("open {}", slot.path().display())))?,
        };
        // Between the file and the mount on it, a crash leaves an empty file.
        let on = rustix::fs::fstatfs(&netns).map_err(NetworkError::errno("examine a network namespace"))?;
        if on.f_type == NSFS_MAGIC {
            Ok(slot)
        } else {
            Err(NetworkError::NoSlot { index, path: slot.path() })
        }
    }

    /// The slot's number.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The name of the namespace, for `ip netns exec`, and of the link on the host.
    #[must_use]
    pub fn name(&self) -> String {
        self.tag.slot_name(self.index)
    }

    /// The file that stands for the namespace.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        named::path_of(&self.name())
    }

    /// The namespace, to enter it or to give it to a [`crate::Dialer`]. Closed on exec.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_netns(&self) -> io::Result<OwnedFd> {
        File::open(self.path()).map(Into::into)
    }

    /// Puts a policy in force: the way out is there when the internet is allowed, otherwise it is not. Runs no
    /// program. A fresh slot is closed. What is open when the way out goes is cut off.
    ///
    /// # Errors
    /// [`NetworkError::Io`] when there is no such namespace, [`NetworkError::Netlink`] when the kernel refuses.
    pub async fn apply(&self, policy: &NetworkPolicy) -> Result<(), NetworkError> {
        let netns = self.open_netns().map_err(NetworkError::io(format!("open {}", self.path().display())))?;
        let open = policy.allow_internet;
        let change = move || {
            let netlink = Netlink::open()?;
            if !open {
                return netlink.delete_default_route().map(drop);
            }
            let uplink = netlink.link(UPLINK)?;
            let address = survey::address_of(&netlink, uplink)?.ok_or_else(|| NetworkError::Netlink {
                attempt: format!("find the address of {UPLINK}"),
                source: io::ErrorKind::AddrNotAvailable.into(),
            })?;
            netlink.set_default_route(Pair::of(address).host)
        };
        namespace::run_inside(&Arc::new(netns), "apply a network policy", change, drop).await
    }
}

/// The file system of namespaces (linux/magic.h).
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;
