//! The guest's network card, as a machine monitor takes it.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketType, netdevice, socket};

use crate::guest::TAP;

/// Opens the slot's tap from inside its namespace, for `-netdev tap,fd=N`: not blocking, closed on exec, frames with a
/// `virtio_net_hdr`, which QEMU finds out by itself. One descriptor can hold it at a time.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when the calling thread's namespace has no tap; otherwise what the kernel says.
pub fn open_tap() -> io::Result<OwnedFd> {
    // Opening makes a tap where there is none: without address or filter, and gone with the descriptor.
    let any = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    match netdevice::name_to_index(&any, TAP) {
        Err(rustix::io::Errno::NODEV) => Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no {TAP} in this network namespace; is this process inside its slot?"),
        )),
        Err(error) => Err(error.into()),
        Ok(_) => sys::tap::open(TAP),
    }
}
