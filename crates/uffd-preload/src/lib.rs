//! Hands over a userfaultfd for a guest's memory.
//!
//! An unmodified QEMU maps its guest's memory from a memfd that it was given, and knows nothing of userfaultfd. Loaded
//! into it with `LD_PRELOAD`, this library looks at each `mmap`: when the one for that memfd comes, it registers the
//! mapping with a userfaultfd and sends that over a socket, in the way Firecracker does. Without [`ENVIRONMENT`] it
//! only passes calls on.
//!
//! A guest whose memory nobody serves would read zeros where its data was, so there is no going on after a failure: the
//! process says why on standard error and ends.
//!
//! The userfaultfd stays open in this process too. Should its server vanish, the guest's threads then wait until
//! somebody ends them; the kernel would otherwise let them go on, with zeros.

mod handover;
mod kernel;

use std::ffi::CStr;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, off_t, size_t};

/// Where the parameters are: `<socket>:<open /dev/userfaultfd, or -1>:<inode of the memfd>`. The first two are numbers
/// of inherited descriptors. Removed from the environment, like `LD_PRELOAD`, once it was followed.
pub const ENVIRONMENT: &CStr = c"COLDFRAME_UFFD";

/// Mappings below this size, in bytes, are not a guest's memory.
const LEAST: size_t = 1 << 20;

/// What `mmap` is.
type Mmap = unsafe extern "C" fn(*mut c_void, size_t, c_int, c_int, c_int, off_t) -> *mut c_void;

/// The `mmap` of the next library, once it was looked up.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// The C library's own `mmap`.
fn next() -> Mmap {
    let mut found = NEXT.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: the name is a C string.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"mmap".as_ptr()) };
        if found.is_null() {
            handover::fail("the C library has no mmap", None);
        }
        NEXT.store(found, Ordering::Relaxed);
    }
    // SAFETY: a C library's function of that name has that type, and on 64-bit systems `off_t` has one size.
    unsafe { mem::transmute::<*mut c_void, Mmap>(found) }
}

/// See `mmap(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: what the caller promises is what the next one needs.
    let mapping = unsafe { next()(address, length, protection, flags, file, offset) };
    // MAP_SHARED_VALIDATE has both bits.
    let shared = flags & libc::MAP_TYPE & libc::MAP_SHARED != 0;
    if shared && file >= 0 && length >= LEAST && mapping != libc::MAP_FAILED {
        handover::consider(mapping, length, file, offset);
    }
    mapping
}

/// See `mmap(2)`.
///
/// # Safety
/// As the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the same function by its other name.
    unsafe { mmap(address, length, protection, flags, file, offset) }
}
