//! Making one slot, on a thread made for it.

use std::os::fd::AsFd;

use crate::guest::{GUEST_IP, GUEST_MAC, HOST_IP, HOST_MAC, PREFIX, TAP};
use crate::netlink::Netlink;
use crate::ruleset::{INNER_TABLE, UPLINK, inner};
use crate::subnet::Pair;
use crate::{InstanceTag, NetworkError, Slot, Subnet, named, namespace, nft, sysctl};

/// What a slot is made from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) tag: InstanceTag,
    pub(crate) subnet: Subnet,
    pub(crate) index: u16,
    pub(crate) tap_owner: Option<u32>,
}

/// Makes the slot. The calling thread is in the host's namespace and ends up in the new one.
///
/// # Errors
/// Nothing is left behind of a slot that could not be made.
pub(crate) fn make(plan: &Plan) -> Result<Slot, NetworkError> {
    let Plan { tag, subnet, index, .. } = *plan;
    let pair = subnet.pair(index).ok_or(NetworkError::NoAddress { index, subnet })?;
    let host = Netlink::open()?;
    let home = namespace::current().map_err(NetworkError::io("open the host's network namespace"))?;
    let name = tag.slot_name(index);
    let Some(path) = named::reserve(&name)? else {
        return Err(NetworkError::SlotExists { index, path: named::path_of(&name) });
    };
    let made = sys::netns::unshare_network()
        .map_err(NetworkError::io("create a network namespace"))
        .and_then(|()| named::bind_current(&path))
        .and_then(|()| furnish(plan, pair, &host))
        .and_then(|()| attach(&host, home.as_fd(), &name, pair));
    match made {
        Ok(()) => Ok(Slot::new(tag, index)),
        Err(error) => {
            if let Err(left) = destroy(&host, &name) {
                tracing::warn!(slot = name, error = %left, "removing a slot that could not be made failed");
            }
            Err(error)
        }
    }
}

/// The inside: settings first, then the filter, then the links, so that no packet finds an unfinished place.
fn furnish(plan: &Plan, pair: Pair, host: &Netlink) -> Result<(), NetworkError> {
    for scope in ["all", "default"] {
        sysctl::set_if_present(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
        sysctl::set(&format!("ipv4/conf/{scope}/rp_filter"), "1")?;
        sysctl::set(&format!("ipv4/conf/{scope}/accept_redirects"), "0")?;
        sysctl::set(&format!("ipv4/conf/{scope}/send_redirects"), "0")?;
    }
    // Whoever is refused often is to hear of it every time; it can only hurt itself.
    sysctl::set("ipv4/icmp_ratelimit", "0")?;
    sysctl::set("ipv4/ip_forward", "1")?;
    nft::load(INNER_TABLE, &inner())?;

    let inside = Netlink::open()?;
    inside.set_up(inside.link("lo")?)?;

    let tap = sys::tap::open(TAP).map_err(NetworkError::io(format!("create {TAP}")))?;
    sys::tap::set_persistent(&tap, true).map_err(NetworkError::io(format!("keep {TAP}")))?;
    if let Some(uid) = plan.tap_owner {
        sys::tap::set_owner(&tap, uid).map_err(NetworkError::io(format!("give {TAP} to user {uid}")))?;
    }
    let tap_link = inside.link(TAP)?;
    inside.set_up_as(tap_link, HOST_MAC)?;
    inside.add_address(tap_link, HOST_IP, PREFIX)?;
    inside.add_neighbour(tap_link, GUEST_IP, GUEST_MAC)?;

    let here = namespace::current().map_err(NetworkError::io("open a new network namespace"))?;
    host.add_veth(&plan.tag.slot_name(plan.index), UPLINK, here.as_fd())?;
    let uplink = inside.link(UPLINK)?;
    inside.add_address(uplink, pair.inside, Pair::PREFIX)?;
    inside.set_up(uplink)
}

/// The host's end. The settings are those of the thread's namespace, hence the way back.
fn attach(
    host: &Netlink,
    home: std::os::fd::BorrowedFd<'_>,
    name: &str,
    pair: Pair,
) -> Result<(), NetworkError> {
    namespace::enter(home).map_err(NetworkError::io("return to the host's network namespace"))?;
    sysctl::set_if_present(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    sysctl::set(&format!("ipv4/conf/{name}/rp_filter"), "1")?;
    sysctl::set(&format!("ipv4/conf/{name}/accept_redirects"), "0")?;
    sysctl::set(&format!("ipv4/conf/{name}/send_redirects"), "0")?;
    let link = host.link(name)?;
    host.add_address(link, pair.host, Pair::PREFIX)?;
    host.set_up(link)
}

/// Takes a slot's names away. The link goes first: when processes keep the namespace alive, they are cut off all the
/// same, and the name is free for the next slot.
pub(crate) fn destroy(host: &Netlink, name: &str) -> Result<(), NetworkError> {
    let link = host.delete_link(name);
    let file = named::remove(name);
    link.map(drop).and(file)
}
