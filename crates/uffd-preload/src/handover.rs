//! From a fresh mapping to a userfaultfd in somebody else's hands.

use std::ffi::CStr;
use std::io;
use std::mem;
use std::ptr;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{c_int, c_void, off_t, size_t};

use crate::ENVIRONMENT;
use crate::kernel::{
    API, Api, FEATURES, IOC_NEW, MODE_MISSING, MODE_WP, Register, TRACKING_FEATURES, UFFDIO_API,
    UFFDIO_REGISTER,
};

/// The file system of huge pages, as `statfs(2)` calls it.
const HUGETLBFS_MAGIC: i64 = 0x958_458f6;

/// Room for the two descriptors of the message, aligned as the kernel wants it.
const CONTROL_WORDS: usize = 8;

/// The inode of the memory that was handed over, so that nobody maps it a second time unseen; 0 before.
static HANDED_OVER: AtomicU64 = AtomicU64::new(0);

/// What the environment asks for.
struct Parameters {
    socket: c_int,
    device: c_int,
    inode: u64,
}

/// Hands the mapping over if it is the one that the environment names.
pub(crate) fn consider(mapping: *mut c_void, length: size_t, file: c_int, offset: off_t) {
    let before = HANDED_OVER.load(Ordering::SeqCst);
    if before != 0 {
        if inode(file) == before {
            fail("the guest's memory is mapped a second time, which nobody would serve", None);
        }
        return;
    }
    // SAFETY: the name is a C string, and QEMU does not change its environment from other threads.
    let value = unsafe { libc::getenv(ENVIRONMENT.as_ptr()) };
    if value.is_null() {
        return;
    }
    // SAFETY: not null, so it is a C string, which nobody changes before we do.
    let value = unsafe { CStr::from_ptr(value) };
    let Some(parameters) = parse(value) else {
        fail("COLDFRAME_UFFD has to be <socket>:<userfaultfd device or -1>:<inode>", None);
    };
    if inode(file) != parameters.inode {
        return;
    }
    HANDED_OVER.store(parameters.inode, Ordering::SeqCst);
    let userfaultfd = open(parameters.device);
    register(userfaultfd, mapping, length, enable(userfaultfd));
    let text = format!(
        "[{{\"base_host_virt_addr\":{},\"size\":{length},\"offset\":{offset},\"page_size\":{}}}]",
        mapping.addr(),
        page_size(file),
    );
    send(parameters.socket, text.as_bytes(), [userfaultfd, file]);
    // The userfaultfd stays open: see the crate's documentation.
    // SAFETY: both were left open for this purpose only, and nobody else in this process knows their numbers.
    unsafe {
        libc::close(parameters.socket);
        if parameters.device >= 0 {
            libc::close(parameters.device);
        }
    }
    // SAFETY: the names are C strings, `value` is not used any more, and QEMU does not use its environment from other
    // threads.
    unsafe {
        libc::unsetenv(ENVIRONMENT.as_ptr());
        libc::unsetenv(c"LD_PRELOAD".as_ptr());
    }
}

/// Which file it is; 0, which none is, when the kernel does not tell.
fn inode(file: c_int) -> u64 {
    // SAFETY: all zero is a valid value of a structure that the kernel fills.
    let mut status: libc::stat = unsafe { mem::zeroed() };
    // SAFETY: the structure lives through the call.
    if unsafe { libc::fstat(file, &raw mut status) } == 0 { status.st_ino } else { 0 }
}

fn parse(value: &CStr) -> Option<Parameters> {
    fn number<T: FromStr>(part: Option<&str>) -> Option<T> {
        part?.parse().ok()
    }
    let mut parts = value.to_str().ok()?.split(':');
    let parameters = Parameters {
        socket: number(parts.next())?,
        device: number(parts.next())?,
        inode: number(parts.next())?,
    };
    let valid = parameters.socket > 2
        && (parameters.device > 2 || parameters.device == -1)
        && parameters.inode != 0
        && parts.next().is_none();
    valid.then_some(parameters)
}

/// A new userfaultfd, which also serves faults that the kernel has on behalf of this process: system calls, KVM.
///
/// Without privileges the system call would not give that, but the inherited device does.
fn open(device: c_int) -> c_int {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let opened = if device >= 0 {
        // SAFETY: this request takes flags, no pointer.
        unsafe { libc::ioctl(device, IOC_NEW, flags) }
    } else {
        // SAFETY: it takes flags, no pointer. Its result is a descriptor or -1, which fit.
        unsafe { c_int::try_from(libc::syscall(libc::SYS_userfaultfd, flags)).unwrap_or(-1) }
    };
    if opened < 0 {
        fail("opening a userfaultfd", Some(io::Error::last_os_error()));
    }
    opened
}

/// Agrees on features. Whether writes can be tracked.
fn enable(userfaultfd: c_int) -> bool {
    let agree = |features| {
        let mut api = Api { api: API, features, ioctls: 0 };
        // SAFETY: the request takes this structure, which lives through the call.
        unsafe { libc::ioctl(userfaultfd, UFFDIO_API, &raw mut api) == 0 }
    };
    // A refusal leaves it as it was, so that one can ask again.
    if agree(TRACKING_FEATURES) {
        return true;
    }
    if !agree(FEATURES) {
        fail("agreeing on the features of userfaultfd", Some(io::Error::last_os_error()));
    }
    false
}

fn register(userfaultfd: c_int, mapping: *mut c_void, length: size_t, tracking: bool) {
    let mode = if tracking { MODE_MISSING | MODE_WP } else { MODE_MISSING };
    let mut request = Register { start: mapping.addr() as u64, length: length as u64, mode, ioctls: 0 };
    // SAFETY: the request takes this structure, which lives through the call. It changes who answers faults in a
    // mapping that is all of our process's making, and moves nothing.
    if unsafe { libc::ioctl(userfaultfd, UFFDIO_REGISTER, &raw mut request) } != 0 {
        fail("registering the guest's memory", Some(io::Error::last_os_error()));
    }
}

/// The size of the file's pages, in bytes.
fn page_size(file: c_int) -> i64 {
    // SAFETY: all zero is a valid value of a structure that the kernel fills.
    let mut status: libc::statfs = unsafe { mem::zeroed() };
    // SAFETY: the structure lives through the call.
    if unsafe { libc::fstatfs(file, &raw mut status) } != 0 {
        fail("asking for the size of pages", Some(io::Error::last_os_error()));
    }
    if status.f_type == HUGETLBFS_MAGIC { status.f_bsize } else { 4096 }
}

/// One message with the text and both descriptors.
fn send(socket: c_int, text: &[u8], descriptors: [c_int; 2]) {
    let mut control = [0_u64; CONTROL_WORDS];
    let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    // SAFETY: all zero is a valid value: no name, no flags.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    let payload = 8; // Two descriptors.
    // SAFETY: arithmetic only.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as usize;
    // SAFETY: the buffer is aligned and larger than `CMSG_SPACE` of the payload, so there is a first header, and its
    // data has room for the payload, which is written without asking for alignment.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(payload) as usize;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast::<[c_int; 2]>(), descriptors);
    }
    loop {
        // SAFETY: everything that the message points to lives through the call.
        let sent = unsafe { libc::sendmsg(socket, &raw const message, libc::MSG_NOSIGNAL) };
        if usize::try_from(sent) == Ok(text.len()) {
            return;
        }
        let error = io::Error::last_os_error();
        if sent >= 0 || error.kind() != io::ErrorKind::Interrupted {
            fail("handing over the guest's memory", (sent < 0).then_some(error));
        }
    }
}

/// Ends the process: its guest must not run without its memory.
pub(crate) fn fail(what: &str, why: Option<io::Error>) -> ! {
    match why {
        Some(why) => eprintln!("uffd-preload: {what}: {why}"),
        None => eprintln!("uffd-preload: {what}"),
    }
    // SAFETY: it does not return, and runs nothing of the process that is no longer wanted.
    unsafe { libc::_exit(1) }
}
