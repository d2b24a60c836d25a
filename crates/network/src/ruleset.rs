//! The packet filters as text for `nft`: one on the host for all sandboxes, one in each namespace.

use std::fmt::Write;

use crate::guest::{ENDPOINT_PORT, GUEST_IP, HOST_IP, TAP};
use crate::{InstanceTag, Subnet};

/// The link to the host inside a namespace.
pub(crate) const UPLINK: &str = "eth0";

/// The table inside a namespace.
pub(crate) const INNER_TABLE: &str = "coldframe";

/// Where no sandbox may go: this network, private use, shared address space, loopback, link local, protocol
/// assignments, benchmarking, multicast, reserved (IANA's special-purpose registry).
const DENIED: [&str; 11] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// Connections that one sandbox may have open through the NAT. The table of connections belongs to the whole host
/// (65536 and more entries); one guest must not fill it.
const MAX_FLOWS: u32 = 8192;

/// The host's filter. Replaces the one that is there in the same transaction. Its size does not depend on how many
/// sandboxes there are: it goes by the names of links and by the range of addresses.
///
/// The set `deny` is where a policy engine adds what is forbidden to all; `onlink` holds the host's own networks.
pub(crate) fn host(tag: InstanceTag, subnet: Subnet, onlink: &[Subnet]) -> String {
    let table = tag.table();
    let links = format!("\"{}*\"", tag.prefix());
    let deny = set("deny", &DENIED);
    let onlink = set("onlink", onlink);
    format!(
        "table inet {table}
delete table inet {table}
table inet {table} {{
{deny}{onlink}
  # Before routing and before anybody's address translation: where it wants to go is where it goes.
  chain from_sandbox {{
    type filter hook prerouting priority raw; policy accept;
    iifname != {links} accept
    meta nfproto != ipv4 drop
    ip saddr != {subnet} drop
    ip daddr @deny drop
    ip daddr @onlink drop
    fib daddr type != unicast drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != {links} accept
    ct state established,related accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname {links} jump outbound
    oifname {links} jump inbound
  }}
  chain outbound {{
    oifname {links} drop
    ct state invalid drop
    tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu
  }}
  chain inbound {{
    ct state != {{ established, related }} drop
  }}
  chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != {links} masquerade
  }}
}}
"
    )
}

/// Removes the host's filter, also when there is none.
pub(crate) fn host_removal(tag: InstanceTag) -> String {
    let table = tag.table();
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// The filter of one namespace. Whether anything can leave is decided by the default route; what can never leave is
/// decided here. What the guest sends in vain is refused rather than dropped, so that its programs need not wait.
pub(crate) fn inner() -> String {
    let deny = set("deny", &DENIED);
    format!(
        "table inet {INNER_TABLE} {{
{deny}
  chain from_guest {{
    type filter hook prerouting priority raw; policy accept;
    iifname {TAP} meta nfproto != ipv4 drop
    iifname {TAP} ip saddr != {GUEST_IP} drop
  }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname lo accept
    ct state established,related accept
    iifname {TAP} ip daddr {HOST_IP} tcp dport {ENDPOINT_PORT} accept
    iifname {TAP} reject with icmpx type admin-prohibited
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    iifname {UPLINK} oifname {TAP} ct state established,related accept
    iifname {TAP} oifname {UPLINK} jump egress
  }}
  chain egress {{
    ct state established,related accept
    ct state invalid drop
    ip daddr @deny reject with icmpx type admin-prohibited
    ct state new ct count over {MAX_FLOWS} drop
    accept
  }}
  # What runs inside the namespace talks to the guest, and to nobody else by way of this network.
  chain output {{
    type filter hook output priority filter; policy drop;
    oifname {{ lo, {TAP} }} accept
  }}
  chain translate {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname {UPLINK} ip saddr {GUEST_IP} masquerade
  }}
}}
"
    )
}

/// A set of networks that share no address.
fn set(name: &str, networks: &[impl std::fmt::Display]) -> String {
    let mut text = format!("  set {name} {{\n    type ipv4_addr; flags interval;\n");
    for (position, network) in networks.iter().enumerate() {
        let lead = if position == 0 { "    elements = { " } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{lead}{network}");
    }
    text.push_str(if networks.is_empty() { "  }\n" } else { " }\n  }\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_denied_networks_share_no_address() {
        // nft refuses overlapping elements of a set.
        let denied: Vec<Subnet> = DENIED.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(Subnet::disjoint(denied.clone()).len(), denied.len());
    }

    #[test]
    fn an_empty_set_has_no_elements() {
        assert_eq!(set("x", &[] as &[Subnet]), "  set x {\n    type ipv4_addr; flags interval;\n  }\n");
    }

    #[test]
    fn the_hosts_filter_names_its_own_links_only() {
        let tag = InstanceTag::new(0xab);
        let text = host(tag, Subnet::of(&tag), &["192.0.2.0/24".parse().unwrap()]);
        assert!(text.contains("table inet coldframe-00ab {"));
        assert!(text.contains("\"cf00ab-*\"") && text.contains("elements = { 192.0.2.0/24 }"));
    }
}
