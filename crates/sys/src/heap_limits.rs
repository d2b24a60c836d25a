//! When the C library's heap takes memory from the kernel and gives it back.

use nix::libc;

/// Makes the heap keep up to `kept` bytes that were freed, and serve allocations of up to `largest` bytes from them.
///
/// By default, large blocks come from the kernel one by one and go back when they are freed, and so does the top of the
/// heap: a program that uses buffers of some hundred kilobytes again and again pays for having each page cleared each
/// time. Whoever calls this should also call [`crate::heap::trim`] when the work is done.
pub fn reuse(largest: u32, kept: u32) {
    let limit = |bytes: u32| libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: sets numbers in the allocator, which takes its own lock for that. What it refuses it ignores.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, limit(largest));
        libc::mallopt(libc::M_TRIM_THRESHOLD, limit(kept));
    }
}
