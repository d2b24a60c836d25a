//! What the host's own network is made of: read once, when an instance starts.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};

use crate::netlink::Netlink;
use crate::{InstanceTag, NetworkError, Subnet};

/// A shorter prefix on a link without a gateway is not a network next door but a tunnel that takes everything.
const SHORTEST_ONLINK: u8 = 8;

/// A route of the host that this instance did not make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) to: Subnet,
    pub(crate) device: Option<String>,
}

/// What an instance needs to know of its host.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// The networks that the host is part of, and its addresses. No two overlap.
    pub(crate) onlink: Vec<Subnet>,
    /// Where it has routes to, the default route left out.
    pub(crate) routes: Vec<Route>,
    /// The range that an earlier run of this instance claimed.
    pub(crate) claimed: Vec<Subnet>,
}

impl Survey {
    /// Asks the kernel. What belongs to the instance itself is left out.
    pub(crate) fn take(netlink: &Netlink, tag: InstanceTag, claim_metric: u32) -> Result<Self, NetworkError> {
        let names = link_names(netlink)?;
        let ours = |index: u32| names.get(&index).is_some_and(|name| tag.slot_index(name).is_some());
        let mut survey = Self::default();
        for address in netlink.addresses()? {
            if address.header.family == AddressFamily::Inet && !ours(address.header.index) {
                let length = address.header.prefix_len;
                survey.onlink.extend(address.attributes.iter().filter_map(|attribute| match attribute {
                    AddressAttribute::Address(IpAddr::V4(ip)) | AddressAttribute::Local(IpAddr::V4(ip)) => {
                        Subnet::containing(*ip, length)
                    }
                    _ => None,
                }));
            }
        }
        for route in netlink.routes()? {
            survey.add_route(&route, &names, claim_metric, ours);
        }
        survey.onlink = Subnet::disjoint(survey.onlink);
        Ok(survey)
    }

    fn add_route(
        &mut self,
        route: &RouteMessage,
        names: &HashMap<u32, String>,
        claim_metric: u32,
        ours: impl Fn(u32) -> bool,
    ) {
        let Some(to) = destination(route) else { return };
        let attributes = &route.attributes;
        let device = attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        if to.prefix_length() == 0 || device.is_some_and(ours) {
            return;
        }
        let kind = route.header.kind;
        if kind == RouteType::Unreachable && attributes.contains(&RouteAttribute::Priority(claim_metric)) {
            self.claimed.push(to);
            return;
        }
        if matches!(kind, RouteType::Multicast) {
            return;
        }
        if kind == RouteType::Unicast
            && route.header.scope == RouteScope::Link
            && to.prefix_length() >= SHORTEST_ONLINK
        {
            self.onlink.push(to);
        }
        self.routes.push(Route { to, device: device.and_then(|index| names.get(&index).cloned()) });
    }

    /// The first route that shares an address with `subnet`.
    pub(crate) fn conflict(&self, subnet: Subnet) -> Option<&Route> {
        self.routes.iter().find(|route| route.to.overlaps(&subnet))
    }
}

/// The names of all links by their index.
fn link_names(netlink: &Netlink) -> Result<HashMap<u32, String>, NetworkError> {
    let mut names = HashMap::new();
    for link in netlink.links()? {
        let name = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
        names.extend(name.map(|name| (link.header.index, name)));
    }
    Ok(names)
}

/// The slots whose link to the host exists.
pub(crate) fn slot_links(netlink: &Netlink, tag: InstanceTag) -> Result<Vec<u16>, NetworkError> {
    Ok(link_names(netlink)?.values().filter_map(|name| tag.slot_index(name)).collect())
}

/// The IPv4 address of a link.
pub(crate) fn address_of(netlink: &Netlink, link: u32) -> Result<Option<Ipv4Addr>, NetworkError> {
    let addresses = netlink.addresses()?.into_iter().filter(|address| address.header.index == link);
    Ok(addresses.flat_map(|address| address.attributes).find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some(ip),
        _ => None,
    }))
}

fn destination(route: &RouteMessage) -> Option<Subnet> {
    if route.header.address_family != AddressFamily::Inet {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    Subnet::containing(address.unwrap_or(Ipv4Addr::UNSPECIFIED), route.header.destination_prefix_length)
}
