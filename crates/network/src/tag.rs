//! What keeps two instances on one host apart.

use std::fmt;
use std::str::FromStr;

/// Four lower-case hexadecimal digits that are part of every name an instance gives to an object of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceTag(u16);

/// The text was not a tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an instance tag is four of the digits 0-9a-f")]
pub struct BadTag;

impl InstanceTag {
    /// The tag with this value.
    #[must_use]
    pub const fn new(value: u16) -> Self {
        Self(value)
    }

    /// The value of the digits.
    #[must_use]
    pub const fn value(self) -> u16 {
        self.0
    }

    /// What the names of the instance's links and namespaces begin with.
    pub(crate) fn prefix(self) -> String {
        format!("cf{self}-")
    }

    /// The name of a slot's namespace and of its link on the host. At most 12 characters.
    pub(crate) fn slot_name(self, index: u16) -> String {
        format!("cf{self}-{index}")
    }

    /// The slot with that name, if it is one of ours.
    pub(crate) fn slot_index(self, name: &str) -> Option<u16> {
        let digits = name.strip_prefix(&self.prefix())?;
        let index = digits.parse().ok()?;
        (self.slot_name(index) == name).then_some(index)
    }

    /// The name of the packet filter's table on the host.
    pub(crate) fn table(self) -> String {
        format!("coldframe-{self}")
    }
}

impl fmt::Display for InstanceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Debug for InstanceTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for InstanceTag {
    type Err = BadTag;

    fn from_str(text: &str) -> Result<Self, BadTag> {
        let valid = text.len() == 4 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if valid { u16::from_str_radix(text, 16).map(Self).map_err(|_| BadTag) } else { Err(BadTag) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_four_digits_are_a_tag() {
        assert_eq!("0af3".parse(), Ok(InstanceTag(0x0af3)));
        assert_eq!(InstanceTag(0x0af3).to_string(), "0af3");
        for bad in ["", "af3", "0AF3", "0af30", "+af3", "xyz1", "0a-3"] {
            assert_eq!(bad.parse::<InstanceTag>(), Err(BadTag), "{bad:?}");
        }
    }

    #[test]
    fn names_lead_back_to_their_slot_and_foreign_ones_nowhere() {
        let tag = InstanceTag(0x0af3);
        for index in [0, 7, 65535] {
            let name = tag.slot_name(index);
            assert!(name.len() <= 15, "{name}");
            assert_eq!(tag.slot_index(&name), Some(index));
        }
        for foreign in ["cf0af3-", "cf0af3-007", "cf0af3-+7", "cf0af3-65536", "cf0af4-7", "cf0af3-7x", "eth0"]
        {
            assert_eq!(tag.slot_index(foreign), None, "{foreign}");
        }
    }
}
