//! Ranges of IPv4 addresses, and the one that slots take theirs from.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use crate::InstanceTag;

/// A network prefix, such as `10.64.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    base: Ipv4Addr,
    length: u8,
}

/// The text was not a network prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a network: expected an address whose bits behind the prefix are zero, as in 10.64.0.0/16"
)]
pub struct BadSubnet(String);

/// The two ends of a slot's link to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) host: Ipv4Addr,
    pub(crate) inside: Ipv4Addr,
}

impl Pair {
    /// Two addresses and nothing else (RFC 3021).
    pub(crate) const PREFIX: u8 = 31;

    /// The pair that one address belongs to.
    pub(crate) fn of(address: Ipv4Addr) -> Self {
        let even = address.to_bits() & !1;
        Self { host: Ipv4Addr::from_bits(even), inside: Ipv4Addr::from_bits(even | 1) }
    }
}

impl Subnet {
    /// The network of an address: the bits behind the prefix are cut off. `None` when `length` is over 32.
    #[must_use]
    pub fn containing(address: Ipv4Addr, length: u8) -> Option<Self> {
        (length <= 32).then(|| Self { base: Ipv4Addr::from_bits(address.to_bits() & mask(length)), length })
    }

    /// The range an instance uses when nobody says otherwise: one of the 64 /16 networks of 10.64.0.0/10, which is
    /// rarely used, chosen by the tag. Room for 32768 slots.
    #[must_use]
    pub fn of(tag: &InstanceTag) -> Self {
        Self::candidate(*tag, 0)
    }

    /// The default ranges of an instance in the order in which they are tried.
    pub(crate) fn candidates(tag: InstanceTag) -> impl Iterator<Item = Self> {
        (0..64).map(move |step| Self::candidate(tag, step))
    }

    fn candidate(tag: InstanceTag, step: u16) -> Self {
        let [_, low] = tag.value().wrapping_add(step).to_be_bytes();
        Self { base: Ipv4Addr::new(10, 64 | (low & 63), 0, 0), length: 16 }
    }

    /// The first address.
    #[must_use]
    pub fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// How many leading bits all addresses share.
    #[must_use]
    pub fn prefix_length(&self) -> u8 {
        self.length
    }

    /// Whether every address of `other` is one of ours.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.length <= other.length && other.base.to_bits() & mask(self.length) == self.base.to_bits()
    }

    /// Whether an address belongs to both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// The addresses of a slot's link, or `None` when the range has no room for that index.
    pub(crate) fn pair(&self, index: u16) -> Option<Pair> {
        let base = self.base.to_bits().checked_add(u32::from(index).checked_mul(2)?)?;
        let pair = Pair::of(Ipv4Addr::from_bits(base));
        self.contains(&Self { base: pair.host, length: Pair::PREFIX }).then_some(pair)
    }

    /// Leaves out the networks that are part of another one in the list: the rest shares no address.
    pub(crate) fn disjoint(mut networks: Vec<Self>) -> Vec<Self> {
        // A network sorts directly behind the ones that contain it.
        networks.sort_unstable();
        let mut kept: Vec<Self> = Vec::with_capacity(networks.len());
        for network in networks {
            if kept.last().is_none_or(|last| !last.contains(&network)) {
                kept.push(network);
            }
        }
        kept
    }
}

fn mask(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let parse = || {
            let (base, length) = text.split_once('/')?;
            let base = base.parse().ok()?;
            let network = Self::containing(base, length.parse().ok()?)?;
            (network.base == base).then_some(network)
        };
        parse().ok_or_else(|| BadSubnet(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn networks_are_read_and_written() {
        for text in ["0.0.0.0/0", "10.64.0.0/16", "192.0.2.2/32", "10.0.0.2/31"] {
            assert_eq!(net(text).to_string(), text);
        }
        for bad in
            ["", "10.0.0.0", "10.0.0.1/31", "10.0.0.0/33", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8/8", "::/0"]
        {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_default_range_is_the_tags_and_all_64_are_tried() {
        let tag = InstanceTag::new(0xffff);
        assert_eq!(Subnet::of(&tag), net("10.127.0.0/16"));
        let all: std::collections::BTreeSet<_> = Subnet::candidates(tag).collect();
        assert_eq!(all.len(), 64);
        assert!(all.iter().all(|candidate| net("10.64.0.0/10").contains(candidate)));
    }

    #[test]
    fn slots_have_pairs_inside_the_range_only() {
        let range = net("10.64.0.0/16");
        let first = Pair { host: Ipv4Addr::new(10, 64, 0, 0), inside: Ipv4Addr::new(10, 64, 0, 1) };
        let last = Pair { host: Ipv4Addr::new(10, 64, 255, 254), inside: Ipv4Addr::new(10, 64, 255, 255) };
        assert_eq!(range.pair(0), Some(first));
        assert_eq!(range.pair(32767), Some(last));
        assert_eq!(range.pair(32768), None);
        assert_eq!(net("10.64.0.4/30").pair(1).map(|pair| pair.inside), Some(Ipv4Addr::new(10, 64, 0, 7)));
        assert_eq!(net("10.64.0.4/30").pair(2), None);
        assert_eq!(net("10.64.0.4/32").pair(0), None);
        assert_eq!(net("255.255.255.254/31").pair(9), None);
        assert_eq!(Pair::of(first.inside), first);
    }

    #[test]
    fn contained_networks_are_left_out() {
        let list = ["10.0.1.0/24", "10.0.0.0/8", "10.0.0.0/16", "192.0.2.2/32", "192.0.2.0/24", "11.0.0.0/8"];
        let kept = Subnet::disjoint(list.map(net).to_vec());
        assert_eq!(kept, ["10.0.0.0/8", "11.0.0.0/8", "192.0.2.0/24"].map(net));
        assert!(net("10.0.0.0/8").overlaps(&net("10.1.0.0/16")));
        assert!(!net("10.0.0.0/16").overlaps(&net("10.1.0.0/16")));
    }
}
