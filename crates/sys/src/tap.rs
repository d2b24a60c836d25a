//! Tap devices: network links whose other end is a file descriptor.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::ioctl::{Getter, IntegerSetter, Opcode, Updater, ioctl, opcode};

const DEVICE: &str = "/dev/net/tun";

// linux/if_tun.h. The type in the number is the header's; the argument is what the comment says.
/// Pointer to `struct ifreq`.
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
/// An integer in the place of the pointer.
const TUNSETPERSIST: Opcode = opcode::write::<i32>(b'T', 203);
/// An integer in the place of the pointer.
const TUNSETOWNER: Opcode = opcode::write::<i32>(b'T', 204);
/// Pointer to `struct ifreq`.
const TUNGETIFF: Opcode = opcode::read::<u32>(b'T', 210);

/// Frames carry their Ethernet header.
pub const IFF_TAP: u16 = 0x0002;
/// No extra header in front of each frame.
pub const IFF_NO_PI: u16 = 0x1000;
/// A `virtio_net_hdr` in front of each frame, so that checksums and segmentation can be left to the other side.
pub const IFF_VNET_HDR: u16 = 0x4000;

/// The longest name of a link, without the terminating zero (`IFNAMSIZ` - 1).
pub const MAX_NAME: usize = 15;

/// `struct ifreq` of linux/if.h as the tun driver uses it: the union holds flags.
#[repr(C)]
#[derive(Clone, Copy)]
struct IfReq {
    name: [u8; MAX_NAME + 1],
    flags: u16,
    rest_of_union: [u8; 22],
}

/// Opens the tap called `name` in the calling thread's network namespace, making it when there is none, in the form
/// that virtual machine monitors expect: frames with a `virtio_net_hdr`, not blocking, closed on exec. A tap that was
/// made here goes when the descriptor is closed, unless [`set_persistent`] says otherwise.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a name that no link can have; otherwise what the kernel says: `EBUSY` when
/// another descriptor holds the tap.
pub fn open(name: &str) -> io::Result<OwnedFd> {
    let mut request =
        IfReq { name: [0; MAX_NAME + 1], flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, rest_of_union: [0; 22] };
    if name.is_empty() || name.len() > MAX_NAME || name.bytes().any(|b| b == 0 || b == b'%' || b == b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} cannot name a link")));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let tap: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(DEVICE)?
        .into();
    // SAFETY: TUNSETIFF reads and writes one struct ifreq (40 bytes on 64-bit machines), which `IfReq` is, and
    // keeps no pointer to it.
    unsafe { ioctl(&tap, Updater::<TUNSETIFF, IfReq>::new(&mut request)) }?;
    Ok(tap)
}

/// Whether the tap outlives its last descriptor.
///
/// # Errors
/// What the kernel says.
pub fn set_persistent(tap: impl AsFd, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes an integer and touches no memory of the caller.
    unsafe { ioctl(tap, IntegerSetter::<TUNSETPERSIST>::new_usize(usize::from(persistent))) }
        .map_err(Into::into)
}

/// Lets a user who has no privileges in the namespace open the tap.
///
/// # Errors
/// What the kernel says.
pub fn set_owner(tap: impl AsFd, uid: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes an integer and touches no memory of the caller.
    unsafe { ioctl(tap, IntegerSetter::<TUNSETOWNER>::new_usize(uid as usize)) }.map_err(Into::into)
}

/// The `IFF_*` flags that the tap was opened with.
///
/// # Errors
/// What the kernel says.
pub fn flags(tap: impl AsFd) -> io::Result<u16> {
    // SAFETY: TUNGETIFF writes one struct ifreq, which `IfReq` is; any bytes are a valid `IfReq`.
    let answer = unsafe { ioctl(tap, Getter::<TUNGETIFF, IfReq>::new()) }?;
    Ok(answer.flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_size_the_kernel_copies() {
        assert_eq!(size_of::<IfReq>(), 40);
    }

    #[test]
    fn names_that_no_link_can_have_are_refused() {
        for name in ["", "sixteen-letters!", "a\0b", "tap%d", "a/b"] {
            assert_eq!(open(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn a_tap_has_the_flags_of_a_machine_monitors_tap_and_is_held_by_one() {
        // In a namespace of its own: the thread ends with the test, and the tap with the thread.
        std::thread::spawn(|| {
            crate::netns::unshare_network().unwrap();
            let tap = open("tap7").unwrap();
            assert_eq!(flags(&tap).unwrap() & 0x5003, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
            assert_eq!(open("tap7").unwrap_err().kind(), io::ErrorKind::ResourceBusy);
            set_owner(&tap, 1000).unwrap();
            set_persistent(&tap, true).unwrap();
            drop(tap);
            // A child that another test starts has all our descriptors until it executes its program.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while let Err(error) = open("tap7") {
                assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
                assert!(std::time::Instant::now() < deadline, "it is still held");
                std::thread::yield_now();
            }
        })
        .join()
        .unwrap();
    }
}
