//! The host's side of all slots of an instance.

use std::collections::{BTreeSet, HashSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::make::{Plan, destroy, make};
use crate::netlink::Netlink;
use crate::survey::Survey;
use crate::{InstanceTag, NetworkError, Slot, Subnet, claim, named, namespace, nft, ruleset, survey, sysctl};

/// Makes and removes the slots of one instance. Every call may be made from any thread, and finishes what it began
/// also when its future is dropped.
#[derive(Debug, Clone)]
pub struct Host {
    tag: InstanceTag,
    subnet: Subnet,
    tap_owner: Option<u32>,
    netns: Arc<OwnedFd>,
}

impl Host {
    /// Readies the host: packets are forwarded, the range of addresses is claimed, the filter is in force. Can be
    /// repeated at any time, and should be when the host got an address or a network: its own networks, which no
    /// sandbox may reach, are looked up here. The host is the network namespace of the calling thread.
    ///
    /// `subnet` is the range for the links of slots, two addresses each. With `None` it is the one that an earlier run
    /// used, or the first free one of the default ranges, beginning with [`Subnet::of`].
    ///
    /// # Errors
    /// [`NetworkError::Conflict`] and [`NetworkError::NoFreeRange`] when the addresses are in use;
    /// [`NetworkError::NoNft`]; others when the kernel refuses.
    pub async fn prepare(tag: InstanceTag, subnet: impl Into<Option<Subnet>>) -> Result<Self, NetworkError> {
        let wanted = subnet.into();
        let netns = namespace::current().map_err(NetworkError::io("open the host's network namespace"))?;
        let netns = Arc::new(netns);
        let work = move || {
            named::prepare_directory()?;
            let netlink = Netlink::open()?;
            let survey = Survey::take(&netlink, tag, claim::metric(tag))?;
            let subnet = claim::choose(&survey, tag, wanted)?;
            // The filter before the forwarding.
            nft::load(&tag.table(), &ruleset::host(tag, subnet, &survey.onlink))?;
            claim::hold(&netlink, &survey, tag, subnet)?;
            sysctl::set("ipv4/ip_forward", "1")?;
            Ok(subnet)
        };
        let subnet = namespace::run_inside(&netns, "ready the host's network", work, drop).await?;
        Ok(Self { tag, subnet, tap_owner: None, netns })
    }

    /// Lets an unprivileged user open the taps of slots made from now on.
    #[must_use]
    pub fn with_tap_owner(self, uid: u32) -> Self {
        Self { tap_owner: Some(uid), ..self }
    }

    /// The range of addresses in use.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Makes a slot, closed to the outside. When nobody waits for it any more, it is removed again.
    ///
    /// # Errors
    /// [`NetworkError::SlotExists`], [`NetworkError::NoAddress`]; others when the kernel refuses. Nothing is left
    /// behind then.
    pub async fn create_slot(&self, index: u16) -> Result<Slot, NetworkError> {
        let plan = Plan { tag: self.tag, subnet: self.subnet, index, tap_owner: self.tap_owner };
        let abandoned = |slot: Slot| {
            // This thread is back in the host's namespace.
            let removed = Netlink::open().and_then(|netlink| destroy(&netlink, &slot.name()));
            if let Err(error) = removed {
                tracing::warn!(slot = slot.name(), %error, "removing a slot that nobody waited for failed");
            }
        };
        namespace::run_inside(&self.netns, "make a network slot", move || make(&plan), abandoned).await
    }

    /// Removes a slot: when this returns, its names are free. Processes inside are cut off. Fine when there is none.
    ///
    /// # Errors
    /// When the kernel refuses. As much as possible is removed.
    pub async fn destroy_slot(&self, index: u16) -> Result<(), NetworkError> {
        let name = self.tag.slot_name(index);
        let work = move || destroy(&Netlink::open()?, &name);
        namespace::run_inside(&self.netns, "remove a network slot", work, drop).await
    }

    /// The slots of which anything exists, also half of one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn list(&self) -> Result<BTreeSet<u16>, NetworkError> {
        let tag = self.tag;
        let work = move || {
            let mut slots: BTreeSet<u16> = survey::slot_links(&Netlink::open()?, tag)?.into_iter().collect();
            slots.extend(named::list()?.iter().filter_map(|name| tag.slot_index(name)));
            Ok(slots)
        };
        namespace::run_inside(&self.netns, "list the network slots", work, drop).await
    }

    /// Removes every slot that is not in `keep`: what a crashed predecessor left. Returns the removed ones. One that
    /// cannot be removed does not keep the others.
    ///
    /// # Errors
    /// The first one met, after everything else was removed.
    pub async fn reclaim(&self, keep: &HashSet<u16>) -> Result<Vec<u16>, NetworkError> {
        let mut removed = Vec::new();
        let mut failed = None;
        for index in self.list().await? {
            if keep.contains(&index) {
                continue;
            }
            match self.destroy_slot(index).await {
                Ok(()) => removed.push(index),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Removes everything of the instance from the host: slots, filter, claim. Forwarding stays on, as others may
    /// rely on it by now.
    ///
    /// # Errors
    /// The first one met, after everything else was removed.
    pub async fn remove_all(&self) -> Result<(), NetworkError> {
        let slots = self.reclaim(&HashSet::new()).await.map(drop);
        let tag = self.tag;
        let work = move || {
            let filter = nft::load(&tag.table(), &ruleset::host_removal(tag));
            let netlink = Netlink::open()?;
            for claimed in Survey::take(&netlink, tag, claim::metric(tag))?.claimed {
                netlink.delete_unreachable(claimed, claim::metric(tag))?;
            }
            filter
        };
        slots.and(namespace::run_inside(&self.netns, "remove the instance's network", work, drop).await)
    }
}
