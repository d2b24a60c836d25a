//! Machines of a usual shape, and talking to what runs in them.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use disk::Overlay;
use disk::nbd::Closed;
use model::{MiB, VcpuCount};
use vmm::{Accel, Confinement, Exit, GuestMemory, Machine, RootDisk, Start, Vm};

use super::Guest;

/// A busy host may take a minute for what takes two seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A user who can open nothing of ours.
pub(crate) const NOBODY: (u32, u32) = (64321, 64321);

/// A machine without a disk, and our end of its console.
pub(crate) fn machine(guest: &Guest, cmdline: &str) -> (Machine, UnixStream) {
    let (console, theirs) = UnixStream::pair().unwrap();
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    let machine = Machine {
        vcpus: VcpuCount(1),
        memory: GuestMemory::create(MiB(256).bytes()).unwrap(),
        start: Start::Boot {
            kernel: guest.kernel.clone(),
            initrd: guest.initrd.clone(),
            cmdline: cmdline.into(),
        },
        root_disk: RootDisk::None,
        tap: None,
        mac: [0x02, 0, 0, 0, 0, 1],
        console: theirs.into(),
        accel: Accel::Tcg,
        program: None,
        confinement: Confinement { user: Some(NOBODY), cgroup_procs: None },
    };
    (machine, console)
}

pub(crate) fn serve(disk: Arc<Overlay>) -> (RootDisk, JoinHandle<Closed>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let server = std::thread::spawn(move || disk::nbd::serve(ours, disk).unwrap());
    (RootDisk::Nbd(OwnedFd::from(theirs)), server)
}

/// Everything up to and including `text`.
pub(crate) fn read_until(console: &mut UnixStream, text: &str) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(text.as_bytes()) {
        let read = console
            .read(&mut byte)
            .unwrap_or_else(|e| panic!("{e} after: {}", String::from_utf8_lossy(&seen)));
        assert_ne!(read, 0, "the console ended after: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

pub(crate) async fn end_of(vm: &dyn Vm) -> Exit {
    tokio::time::timeout(PATIENCE, vm.wait()).await.expect("the machine should have ended")
}
