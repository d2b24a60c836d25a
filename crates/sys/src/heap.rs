//! The C library's heap.

use nix::libc;

/// Gives memory that was freed back to the kernel. The allocator keeps what lies between pieces that are still in use;
/// this returns whole pages of it. Takes time in the order of a millisecond.
pub fn trim() {
    // SAFETY: takes the allocator's own locks and changes nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}

/// Makes all threads share one heap. For programs whose threads rarely allocate at the same time: the allocator's
/// default, up to eight heaps per processor, leaves each of them half empty.
///
/// To be called before there is a second thread; later it has an effect on new threads only.
pub fn share_between_threads() {
    // SAFETY: sets a number in the allocator, which takes its own lock for that.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}
