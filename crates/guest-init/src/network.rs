//! The loopback interface and the one network card.

use std::fs;
use std::io;

use crate::cmdline::Network;
use crate::error::{Attempt as _, Failure};
use crate::netlink::Netlink;

const CARD: &str = "eth0";

/// Switches loopback on, and the card when the host gave it an address.
pub(crate) fn bring_up(network: Option<&Network>) -> Result<(), Failure> {
    let netlink = Netlink::open().attempt(|| "open a netlink socket".to_owned())?;
    netlink.up(index_of("lo")?).attempt(|| "switch lo on".to_owned())?;
    let Some(Network { address, prefix, gateway }) = network else { return Ok(()) };
    let card = index_of(CARD)?;
    netlink.add_address(card, *address, *prefix).attempt(|| format!("give {CARD} the address {address}"))?;
    netlink.up(card).attempt(|| format!("switch {CARD} on"))?;
    if let Some(gateway) = gateway {
        netlink
            .add_default_route(card, *gateway)
            .attempt(|| format!("set the default route to {gateway}"))?;
    }
    Ok(())
}

fn index_of(name: &str) -> Result<u32, Failure> {
    let path = format!("/sys/class/net/{name}/ifindex");
    let what = || format!("find the network interface {name}");
    let text = fs::read_to_string(path).attempt(what)?;
    text.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData)).attempt(what)
}
