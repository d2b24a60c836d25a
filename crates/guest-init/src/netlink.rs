//! Just enough of rtnetlink (RFC 3549, `linux/rtnetlink.h`) to configure one network card: four requests, each
//! answered with an acknowledgement.

use std::io;
use std::net::Ipv4Addr;

use rustix::fd::OwnedFd;
use rustix::net::netdevice::name_to_index;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

const HEADER_LEN: usize = 16;
const AF_INET: u8 = 2;

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_CREATE: u16 = 0x400;

const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// A connection to the kernel's network configuration.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        // No protocol is number 0, which for netlink is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        Ok(Self(socket))
    }

    /// The number of an interface.
    pub(crate) fn index_of(&self, name: &str) -> io::Result<u32> {
        Ok(name_to_index(&self.0, name)?)
    }

    /// Switches an interface on.
    pub(crate) fn up(&self, interface: u32) -> io::Result<()> {
        self.request(&link_up(interface))
    }

    /// Gives an interface an address.
    pub(crate) fn add_address(&self, interface: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        self.request(&new_address(interface, address, prefix))
    }

    /// Sends what nothing else matches to `gateway`.
    pub(crate) fn add_default_route(&self, interface: u32, gateway: Ipv4Addr) -> io::Result<()> {
        self.request(&default_route(interface, gateway))
    }

    fn request(&self, message: &[u8]) -> io::Result<()> {
        send(&self.0, message, SendFlags::empty())?;
        let mut reply = [0_u8; 4096];
        let (_, len) = recv(&self.0, &mut reply[..], RecvFlags::empty())?;
        acknowledgement(reply.get(..len).unwrap_or_default())
    }
}

/// The kernel answers every request with `NLMSG_ERROR`, whose error is zero when all is well.
fn acknowledgement(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let code = reply.get(HEADER_LEN..HEADER_LEN + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is no acknowledgement")),
    }
}

fn link_up(interface: u32) -> Vec<u8> {
    // struct ifinfomsg: family, padding, type (u16), index, flags, change mask.
    let mut body = vec![0; 4];
    body.extend(interface.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    message(RTM_NEWLINK, 0, &body)
}

fn new_address(interface: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let mut body = vec![AF_INET, prefix, 0, RT_SCOPE_UNIVERSE];
    body.extend(interface.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, address.octets());
    attribute(&mut body, IFA_ADDRESS, address.octets());
    message(RTM_NEWADDR, NLM_F_CREATE, &body)
}

fn default_route(interface: u32, gateway: Ipv4Addr) -> Vec<u8> {
    // struct rtmsg: family, destination and source prefix lengths, TOS, table, protocol, scope, type, flags.
    let mut body = vec![AF_INET, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST];
    body.extend(0_u32.to_ne_bytes());
    attribute(&mut body, RTA_GATEWAY, gateway.octets());
    attribute(&mut body, RTA_OIF, interface.to_ne_bytes());
    message(RTM_NEWROUTE, NLM_F_CREATE, &body)
}

/// Every attribute here holds four bytes, so that padding never comes up.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER_LEN + body.len());
    message.extend(len.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    // Sequence number and sender: one request at a time on a socket of its own needs neither.
    message.extend([0; 8]);
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_kernel_takes_a_request_and_names_what_is_wrong_with_another() {
        let netlink = Netlink::open().unwrap();
        // Loopback can be switched on again and again.
        netlink.up(netlink.index_of("lo").unwrap()).unwrap();
        let missing = netlink.up(0x7fff_ffff).unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(rustix::io::Errno::NODEV.raw_os_error()));
    }

    #[test]
    fn messages_say_their_own_length() {
        for bytes in
            [link_up(2), new_address(2, [10, 0, 0, 2].into(), 30), default_route(2, [10, 0, 0, 1].into())]
        {
            assert_eq!(bytes[..4], u32::try_from(bytes.len()).unwrap().to_ne_bytes());
            assert_eq!(bytes.len() % 4, 0);
        }
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        assert!(acknowledgement(&[]).is_err());
        assert!(acknowledgement(&[0; 18]).is_err());
    }
}
