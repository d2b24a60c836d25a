//! The C library's heap.

use nix::libc;

/// Gives memory that was freed back to the kernel. The allocator keeps what lies between pieces that are still in use;
/// this returns whole pages of it. Takes time in the order of a millisecond.
pub fn trim() {
    // SAFETY: takes the allocator's own locks and changes nothing that is in use.
    unsafe { libc::malloc_trim(0) };
}
