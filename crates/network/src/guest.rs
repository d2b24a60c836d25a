//! What the network looks like from inside a sandbox: the same in every one.

use std::net::Ipv4Addr;

/// The guest's address.
pub const GUEST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 21);

/// The host's address on the tap: the guest's gateway, and where the supervisor listens.
pub const HOST_IP: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 22);

/// Length of the network prefix that holds both.
pub const PREFIX: u8 = 30;

/// The tap in the namespace.
pub const TAP: &str = "tap0";

/// The guest's hardware address, locally administered.
pub const GUEST_MAC: [u8; 6] = [0x02, 0xcf, 0xa9, 0xfe, 0x00, 0x15];

/// The tap's hardware address. Fixed, so that what a resumed guest remembers of its gateway stays true.
pub const HOST_MAC: [u8; 6] = [0x02, 0xcf, 0xa9, 0xfe, 0x00, 0x16];

/// The supervisor's TCP port on [`HOST_IP`]: all that a guest reaches of its namespace.
pub const ENDPOINT_PORT: u16 = 80;
