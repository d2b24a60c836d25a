//! One message from a unix socket, with what came beside it.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::ptr;

/// Room for control data, in 64-bit words: credentials and three descriptors, with their headers.
const CONTROL_WORDS: usize = 8;

/// What a read brought.
#[derive(Debug)]
pub(crate) struct Message {
    /// Bytes of text. None at the end of the stream.
    pub(crate) bytes: usize,
    /// All descriptors that came, owned from the first moment on.
    pub(crate) descriptors: Vec<OwnedFd>,
    /// Who sent it, if the socket asks the kernel for that.
    pub(crate) sender: Option<u32>,
    /// Whether descriptors were lost: there was no room in the message or in this process.
    pub(crate) truncated: bool,
}

/// Reads once from the socket, without waiting.
pub(crate) fn receive(socket: &UnixStream, text: &mut [u8]) -> io::Result<Message> {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    // SAFETY: all zero is a valid value: no name, no flags.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control);
    // SAFETY: everything that the header points to is ours, as long as it says, and lives through the call.
    let received = unsafe {
        libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT)
    };
    let bytes = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;

    let mut message = Message {
        bytes,
        descriptors: Vec::new(),
        sender: None,
        truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
    };
    // SAFETY: the kernel has filled the control data and set its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    // SAFETY: the iteration gives null or a header that is whole and inside the control data.
    while let Some(part) = unsafe { next.as_ref() } {
        // SAFETY: arithmetic only; the second is inside the control data.
        let (empty, data) = unsafe { (libc::CMSG_LEN(0) as usize, libc::CMSG_DATA(part)) };
        let length = part.cmsg_len.saturating_sub(empty);
        match (part.cmsg_level, part.cmsg_type) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for index in 0..length / size_of::<libc::c_int>() {
                    // SAFETY: inside of the message, whose length the kernel has set. The kernel has made the
                    // descriptor for us alone, and we look at it once.
                    let owned = unsafe {
                        OwnedFd::from_raw_fd(ptr::read_unaligned(data.cast::<libc::c_int>().add(index)))
                    };
                    message.descriptors.push(owned);
                }
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: inside of the message, as the guard says; any bytes make a value.
                let sender = unsafe { ptr::read_unaligned(data.cast::<libc::ucred>()) };
                // Zero when it is in a place where it has no number for us.
                message.sender = u32::try_from(sender.pid).ok().filter(|pid| *pid != 0);
            }
            _ => {}
        }
        // SAFETY: both are what the kernel has filled.
        next = unsafe { libc::CMSG_NXTHDR(&raw const header, part) };
    }
    Ok(message)
}

/// Who has connected the socket, or made it and its peer.
pub(crate) fn peer(socket: &UnixStream) -> io::Result<u32> {
    // SAFETY: all zero is a valid value.
    let mut peer: libc::ucred = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes to a structure of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(peer.pid).map_err(io::Error::other)
}
