//! What a virtual machine is made of.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use model::VcpuCount;

use crate::accel::Accel;
use crate::memory::GuestMemory;

/// A virtual machine before it runs.
#[derive(Debug)]
pub struct Machine {
    /// How many processors.
    pub vcpus: VcpuCount,
    /// Its memory. Keep a [`GuestMemory::try_clone`] to read it later.
    pub memory: GuestMemory,
    /// An uncompressed ELF kernel that supports PVH. Any user must be allowed to read the file.
    pub kernel: PathBuf,
    /// The initramfs. Any user must be allowed to read the file.
    pub initrd: PathBuf,
    /// Parameters for what runs in the guest. The driver adds what its kind of machine needs.
    pub cmdline: String,
    /// The disk that the guest sees first.
    pub root_disk: RootDisk,
    /// An open tap device, as `sys::tap::open` makes it. The guest has no network without one.
    pub tap: Option<OwnedFd>,
    /// The guest's address on the tap.
    pub mac: [u8; 6],
    /// One end of a pair of stream sockets: what the guest prints comes out of the other end. Read it, or the guest
    /// stops when the socket is full.
    pub console: OwnedFd,
    /// What executes its instructions.
    pub accel: Accel,
    /// What the monitor is not allowed to do.
    pub confinement: Confinement,
}

/// How the monitor reaches the disk.
#[derive(Debug)]
#[non_exhaustive]
pub enum RootDisk {
    /// No disk: the guest lives in its initramfs.
    None,
    /// A stream socket to an NBD server that serves the disk as its default export. It must be served when the machine
    /// is launched: the monitor asks for the disk's size before anything runs.
    Nbd(OwnedFd),
}

/// What the monitor's process is not allowed to do. In every case it dies with us and gains no privileges.
#[derive(Debug, Default)]
pub struct Confinement {
    /// The user and group it runs as, instead of ours. With KVM the group must be allowed to open `/dev/kvm`.
    pub user: Option<(u32, u32)>,
    /// The open `cgroup.procs` of the group it moves into before it runs.
    pub cgroup_procs: Option<OwnedFd>,
}
