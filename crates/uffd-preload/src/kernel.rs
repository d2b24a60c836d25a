//! What the kernel's `linux/userfaultfd.h` says.

use libc::c_ulong;

/// `UFFD_API`: the only version there is.
pub(crate) const API: u64 = 0xaa;
/// `USERFAULTFD_IOC_NEW`, on an open `/dev/userfaultfd`.
pub(crate) const IOC_NEW: c_ulong = 0xaa00;
/// `UFFDIO_API`.
pub(crate) const UFFDIO_API: c_ulong = 0xc018_aa3f;
/// `UFFDIO_REGISTER`.
pub(crate) const UFFDIO_REGISTER: c_ulong = 0xc020_aa00;

/// Faults on pages that a shared mapping's file does not have, and news of pages given away: all that is needed.
pub(crate) const FEATURES: u64 = MISSING_HUGETLBFS | MISSING_SHMEM | EVENT_REMOVE;
/// Besides, written pages are told from others without a fault that anybody has to answer (Linux 6.7).
pub(crate) const TRACKING_FEATURES: u64 = FEATURES | WP_HUGETLBFS_SHMEM | WP_UNPOPULATED | WP_ASYNC;

const EVENT_REMOVE: u64 = 1 << 3;
const MISSING_HUGETLBFS: u64 = 1 << 4;
const MISSING_SHMEM: u64 = 1 << 5;
const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
const WP_UNPOPULATED: u64 = 1 << 13;
const WP_ASYNC: u64 = 1 << 15;

/// `UFFDIO_REGISTER_MODE_MISSING`.
pub(crate) const MODE_MISSING: u64 = 1;
/// `UFFDIO_REGISTER_MODE_WP`.
pub(crate) const MODE_WP: u64 = 2;

/// `struct uffdio_api`.
#[repr(C)]
pub(crate) struct Api {
    pub(crate) api: u64,
    pub(crate) features: u64,
    pub(crate) ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
pub(crate) struct Register {
    pub(crate) start: u64,
    pub(crate) length: u64,
    pub(crate) mode: u64,
    pub(crate) ioctls: u64,
}
