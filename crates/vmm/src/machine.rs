//! What a virtual machine is made of.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use guest_memory::GuestMemory;
use model::VcpuCount;

use crate::accel::Accel;

/// A virtual machine before it runs.
#[derive(Debug)]
pub struct Machine {
    /// How many processors.
    pub vcpus: VcpuCount,
    /// Its memory. Keep a [`GuestMemory::try_clone`] to read it later.
    pub memory: GuestMemory,
    /// What it does first.
    pub start: Start,
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
    /// The monitor's program, in place of the one that is found in `PATH`.
    pub program: Option<PathBuf>,
    /// What the monitor is not allowed to do.
    pub confinement: Confinement,
}

/// What a machine does first.
#[derive(Debug)]
pub enum Start {
    /// Boot a kernel, at once.
    Boot {
        /// An uncompressed ELF kernel that supports PVH. Any user must be allowed to read the file.
        kernel: PathBuf,
        /// The initramfs. Any user must be allowed to read the file.
        initrd: PathBuf,
        /// Parameters for what runs in the guest. The driver adds what its kind of machine needs.
        cmdline: String,
    },
    /// Wait for [`crate::Vm::load_state`] and then for [`crate::Vm::resume`]. The memory, the disk and everything else of
    /// the machine must be as they were when the state was saved.
    Incoming {
        /// How the memory comes when the file does not have it yet.
        preload: Option<Preload>,
    },
}

/// What makes a monitor hand its guest's memory to a page server, which then fills it as it is touched.
///
/// The monitor's program knows nothing of that: a library, loaded before its own, sees the memory being mapped and sends
/// a userfaultfd for it through a socket. The message is there when the launch returns; from then on until the monitor is
/// gone the memory must be served. A library that cannot be loaded is left out with a warning that nobody sees: no message
/// comes, and the guest must not run.
#[derive(Debug)]
pub struct Preload {
    /// The library. Any user must be allowed to read the file.
    pub library: OwnedFd,
    /// A connected stream socket; the page server has the other end.
    pub socket: OwnedFd,
    /// The open `/dev/userfaultfd`: an unprivileged user may have no other way to get a userfaultfd for faults in the
    /// kernel.
    pub userfaultfd: Option<OwnedFd>,
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
