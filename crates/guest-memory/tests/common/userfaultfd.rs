//! A userfaultfd, made without the preload library.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// `UFFD_FEATURE_EVENT_REMOVE`, all that stock Firecracker asks for.
const EVENT_REMOVE: u64 = 1 << 3;

/// `UFFD_FEATURE_PAGEFAULT_FLAG_WP`: writes to protected pages are faults that somebody has to answer.
pub(crate) const PAGEFAULT_FLAG_WP: u64 = 1;

/// `UFFDIO_REGISTER_MODE_MISSING`.
pub(crate) const MISSING: u64 = 1;
/// `UFFDIO_REGISTER_MODE_WP`.
pub(crate) const WRITE_PROTECT: u64 = 2;

/// A userfaultfd with no memory yet.
pub(crate) fn open() -> OwnedFd {
    open_with(0)
}

/// One with features besides those of Firecracker.
pub(crate) fn open_with(features: u64) -> OwnedFd {
    // SAFETY: it takes flags, no pointer, and its result is checked.
    let number = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
    assert!(number >= 0, "userfaultfd: {}", std::io::Error::last_os_error());
    // SAFETY: it was just made for us.
    let uffd = unsafe { OwnedFd::from_raw_fd(i32::try_from(number).unwrap()) };
    let mut api: [u64; 3] = [0xaa, EVENT_REMOVE | features, 0];
    ioctl(&uffd, 0xc018_aa3f, &mut api);
    uffd
}

/// Registers memory.
pub(crate) fn register(uffd: &OwnedFd, address: usize, length: usize, mode: u64) {
    let mut request: [u64; 4] = [address as u64, length as u64, mode, 0];
    ioctl(uffd, 0xc020_aa00, &mut request);
}

fn ioctl<const WORDS: usize>(uffd: &OwnedFd, request: u64, argument: &mut [u64; WORDS]) {
    use std::os::fd::AsRawFd;
    // SAFETY: the argument is as large as the request says.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), request, argument.as_mut_ptr()) };
    assert_eq!(result, 0, "ioctl {request:#x}: {}", std::io::Error::last_os_error());
}

/// One message with text and descriptors.
pub(crate) fn send(socket: &UnixStream, text: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let sent = sendmsg(socket, &[IoSlice::new(text)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, text.len());
}

/// What a monitor with one region says.
pub(crate) fn json(address: usize, length: usize, page_size: usize) -> String {
    format!(
        r#"[{{"base_host_virt_addr":{address},"size":{length},"offset":0,"page_size":{page_size},"page_size_kib":{page_size}}}]"#
    )
}
