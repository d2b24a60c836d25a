//! The loopback interface and the one network card.

use crate::cmdline::Network;
use crate::error::{Attempt as _, Failure};
use crate::netlink::Netlink;

const LOOPBACK: &str = "lo";
const CARD: &str = "eth0";

/// Switches loopback on, and the card when the host gave it an address. Opens no path: the root may be changing.
pub(crate) fn bring_up(network: Option<&Network>) -> Result<(), Failure> {
    let netlink = Netlink::open().attempt(|| "open a netlink socket".to_owned())?;
    netlink
        .up(netlink.index_of(LOOPBACK).attempt(|| format!("find {LOOPBACK}"))?)
        .attempt(|| format!("switch {LOOPBACK} on"))?;
    let Some(Network { address, prefix, gateway }) = network else { return Ok(()) };
    let card = netlink.index_of(CARD).attempt(|| format!("find the network card {CARD}"))?;
    netlink.add_address(card, *address, *prefix).attempt(|| format!("give {CARD} the address {address}"))?;
    netlink.up(card).attempt(|| format!("switch {CARD} on"))?;
    if let Some(gateway) = gateway {
        netlink
            .add_default_route(card, *gateway)
            .attempt(|| format!("set the default route to {gateway}"))?;
    }
    Ok(())
}
