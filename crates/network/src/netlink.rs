//! Links, addresses, neighbours and routes of one namespace, over its routing socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute};
use rtnetlink::packet_route::route::{RouteMessage, RouteType};
use rtnetlink::packet_route::{address::AddressMessage, link::LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::{Builder, Runtime};

use crate::{NetworkError, Subnet};

/// A routing socket of the namespace in which it was opened; it stays in that one wherever its thread goes.
///
/// Calls wait for the kernel's answer, so this is for threads that run nothing else.
pub(crate) struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, NetworkError> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(NetworkError::io("start a loop for a routing socket"))?;
        let inside = runtime.enter();
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(NetworkError::io("open a routing socket"))?;
        drop(inside);
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    fn ask<T>(
        &self,
        attempt: impl FnOnce() -> String,
        request: impl Future<Output = Result<T, rtnetlink::Error>>,
    ) -> Result<T, NetworkError> {
        self.runtime
            .block_on(request)
            .map_err(|error| NetworkError::Netlink { attempt: attempt(), source: to_io(error) })
    }

    /// The index of a link, or `None` when there is none of that name.
    pub(crate) fn find_link(&self, name: &str) -> Result<Option<u32>, NetworkError> {
        let request = self.handle.link().get().match_name(name).execute();
        let found = self.ask(|| format!("look up link {name}"), async {
            futures_util::pin_mut!(request);
            request.try_next().await
        });
        match found {
            Err(NetworkError::Netlink { source, .. }) if is(&source, rustix::io::Errno::NODEV) => Ok(None),
            found => Ok(found?.map(|link| link.header.index)),
        }
    }

    /// The index of a link that has to be there.
    pub(crate) fn link(&self, name: &str) -> Result<u32, NetworkError> {
        self.find_link(name)?.ok_or_else(|| NetworkError::Netlink {
            attempt: format!("look up link {name}"),
            source: rustix::io::Errno::NODEV.into(),
        })
    }

    /// All links.
    pub(crate) fn links(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        let request = self.handle.link().get().execute();
        self.ask(|| "list the links".to_owned(), request.try_collect())
    }

    /// All addresses.
    pub(crate) fn addresses(&self) -> Result<Vec<AddressMessage>, NetworkError> {
        let request = self.handle.address().get().execute();
        self.ask(|| "list the addresses".to_owned(), request.try_collect())
    }

    /// All IPv4 routes of all tables.
    pub(crate) fn routes(&self) -> Result<Vec<RouteMessage>, NetworkError> {
        let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let request = self.handle.route().get(all).execute();
        self.ask(|| "list the routes".to_owned(), request.try_collect())
    }

    /// Makes a pair of connected links: `name` here, `peer` in the namespace `netns`. Born in its place, the peer
    /// need not be moved, which would cost a grace period of the kernel's.
    pub(crate) fn add_veth(&self, name: &str, peer: &str, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let peer_message = LinkMessageBuilder::<LinkUnspec>::default()
            .name(peer)
            .append_extra_attribute(LinkAttribute::NetNsFd(netns.as_raw_fd()))
            .build();
        let pair =
            LinkMessageBuilder::<LinkVeth>::new_with_info_kind(rtnetlink::packet_route::link::InfoKind::Veth)
                .name(name)
                .set_info_data(InfoData::Veth(InfoVeth::Peer(peer_message)))
                .build();
        self.ask(|| format!("create link {name}"), self.handle.link().add(pair).execute())
    }

    /// Switches a link on.
    pub(crate) fn set_up(&self, index: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.ask(|| format!("switch link {index} on"), self.handle.link().set(message).execute())
    }

    /// Gives a link a hardware address and switches it on.
    pub(crate) fn set_up_as(&self, index: u32, mac: [u8; 6]) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
        self.ask(|| format!("set the address of link {index}"), self.handle.link().set(message).execute())?;
        self.set_up(index)
    }

    /// Removes a link; `false` when there was none.
    pub(crate) fn delete_link(&self, name: &str) -> Result<bool, NetworkError> {
        let Some(index) = self.find_link(name)? else { return Ok(false) };
        gone_is_fine(
            self.ask(|| format!("delete link {name}"), self.handle.link().del(index).execute()),
            rustix::io::Errno::NODEV,
        )
    }

    /// Gives a link an address.
    pub(crate) fn add_address(&self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
        self.ask(
            || format!("give link {index} the address {address}/{prefix}"),
            self.handle.address().add(index, IpAddr::V4(address), prefix).execute(),
        )
    }

    /// Tells a link for good where an address is, so that nobody has to be asked, and nobody can answer falsely.
    pub(crate) fn add_neighbour(
        &self,
        index: u32,
        address: Ipv4Addr,
        mac: [u8; 6],
    ) -> Result<(), NetworkError> {
        self.ask(
            || format!("tell link {index} where {address} is"),
            self.handle
                .neighbours()
                .add(index, IpAddr::V4(address))
                .link_layer_address(&mac)
                .replace()
                .execute(),
        )
    }

    /// Sends everything without a better route to a gateway.
    pub(crate) fn set_default_route(&self, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
        self.ask(
            || format!("set the default route to {gateway}"),
            self.handle.route().add(route).replace().execute(),
        )
    }

    /// Removes the default route; `false` when there was none.
    pub(crate) fn delete_default_route(&self) -> Result<bool, NetworkError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().build();
        gone_is_fine(
            self.ask(|| "delete the default route".to_owned(), self.handle.route().del(route).execute()),
            rustix::io::Errno::SRCH,
        )
    }

    /// Makes a network unreachable, except for the parts that have a route of their own. The metric tells routes to
    /// the same network apart.
    pub(crate) fn add_unreachable(&self, network: Subnet, metric: u32) -> Result<(), NetworkError> {
        self.ask(
            || format!("make {network} unreachable"),
            self.handle.route().add(unreachable(network, metric)).replace().execute(),
        )
    }

    /// Undoes [`Netlink::add_unreachable`]; `false` when there was nothing to undo.
    pub(crate) fn delete_unreachable(&self, network: Subnet, metric: u32) -> Result<bool, NetworkError> {
        gone_is_fine(
            self.ask(
                || format!("delete the unreachable route to {network}"),
                self.handle.route().del(unreachable(network, metric)).execute(),
            ),
            rustix::io::Errno::SRCH,
        )
    }
}

fn unreachable(network: Subnet, metric: u32) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(network.base(), network.prefix_length())
        .kind(RouteType::Unreachable)
        .priority(metric)
        .build()
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn is(error: &io::Error, errno: rustix::io::Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

/// `false` when a removal found nothing.
fn gone_is_fine(result: Result<(), NetworkError>, gone: rustix::io::Errno) -> Result<bool, NetworkError> {
    match result {
        Ok(()) => Ok(true),
        Err(NetworkError::Netlink { source, .. }) if is(&source, gone) => Ok(false),
        Err(error) => Err(error),
    }
}
