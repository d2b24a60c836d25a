//! Putting the machine together: memory, disk, tap, console and the VMM that joins them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use cgroup::{Group, Hierarchy, Limits};
use control::{Accel, CgroupLimits, Launch};
use disk::Overlay;
use model::SandboxSpec;
use network::guest;
use vmm::{Confinement, Driver, GuestMemory, Machine, RootDisk, Vm};

/// The private part of the root disk. It has no name once it is open: nothing is left of it when its supervisor dies.
const DISK_FILE: &str = "disk.cow";
/// The NBD server keeps its buffers on the heap.
const DISK_STACK_BYTES: usize = 256 << 10;

/// A launched VMM and what the supervisor keeps of its machine.
pub(crate) struct Launched {
    pub(crate) vm: Box<dyn Vm>,
    pub(crate) console: tokio::net::UnixStream,
    pub(crate) group: Group,
}

/// Launches the sandbox's VMM. Must run on the thread that lives as long as the process: the VMM dies with it.
pub(crate) async fn launch(driver: &dyn Driver, launch: &Launch, dir: &Path) -> Result<Launched, String> {
    let hierarchy = Hierarchy::discover().map_err(|error| error.to_string())?;
    let limits = Limits {
        memory_max: Some(launch.limits.memory_max),
        pids_max: Some(launch.limits.pids_max),
        cpu_max: Some((launch.limits.cpu_quota_us, CgroupLimits::CPU_PERIOD_US)),
    };
    let group = hierarchy.create(&launch.cgroup.join("vmm"), &limits).map_err(|error| error.to_string())?;
    let procs = group.procs_fd().map_err(|error| format!("opening the VMM's control group: {error}"))?;

    let spec = &launch.spec;
    let memory = GuestMemory::create(spec.shape.memory.bytes())
        .map_err(|error| format!("making {} of guest memory: {error}", spec.shape.memory))?;
    let root_disk = serve_disk(launch, dir)?;
    let tap = network::open_tap().map_err(|error| format!("opening the tap {}: {error}", guest::TAP))?;
    let (console, console_vmm) = console().map_err(|error| format!("making the console: {error}"))?;

    let machine = Machine {
        vcpus: spec.shape.vcpus,
        memory,
        kernel: launch.build.kernel.clone(),
        initrd: launch.build.initrd.clone(),
        cmdline: guest_parameters(launch),
        root_disk: RootDisk::Nbd(root_disk),
        tap: Some(tap),
        mac: guest::GUEST_MAC,
        console: console_vmm.into(),
        accel: match launch.accel {
            Accel::Kvm => vmm::Accel::Kvm,
            Accel::Tcg => vmm::Accel::Tcg,
        },
        confinement: Confinement {
            user: Some((launch.vmm_uid, group_of(launch))),
            cgroup_procs: Some(procs),
        },
    };
    let vm = driver.launch(machine).await.map_err(|error| error.to_string())?;
    Ok(Launched { vm, console, group })
}

/// Our end of the console and the VMM's, which blocks.
fn console() -> io::Result<(tokio::net::UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?, theirs))
}

/// What `guest-init` reads from the kernel's command line.
fn guest_parameters(launch: &Launch) -> String {
    let SandboxSpec { id, .. } = &launch.spec;
    let dns: Vec<String> = launch.dns.iter().map(ToString::to_string).collect();
    format!(
        "coldframe.hostname={id} coldframe.ip={}/{} coldframe.gw={} coldframe.dns={}",
        guest::GUEST_IP,
        guest::PREFIX,
        guest::HOST_IP,
        dns.join(",")
    )
}

/// With KVM the VMM needs the group that may open `/dev/kvm`; otherwise a group nobody else has.
fn group_of(launch: &Launch) -> u32 {
    use std::os::unix::fs::MetadataExt;
    match launch.accel {
        Accel::Kvm => std::fs::metadata("/dev/kvm").map_or(launch.vmm_uid, |meta| meta.gid()),
        Accel::Tcg => launch.vmm_uid,
    }
}

/// Starts the disk's server on a thread of its own; it ends when the VMM closes the socket it gets here.
fn serve_disk(launch: &Launch, dir: &Path) -> Result<OwnedFd, String> {
    let path = dir.join(DISK_FILE);
    let overlay = Overlay::create(&launch.build.rootfs, &path, launch.spec.shape.disk.bytes())
        .map_err(|error| format!("making the root disk: {error}"))?;
    std::fs::remove_file(&path).map_err(|error| format!("unlinking {}: {error}", path.display()))?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| format!("making the disk's socket: {error}"))?;
    let serve = move || match disk::nbd::serve(ours, Arc::new(overlay)) {
        Ok(_) => tracing::info!("the VMM closed its disk"),
        Err(error) => tracing::warn!(%error, "serving the disk ended"),
    };
    std::thread::Builder::new()
        .name("disk".into())
        .stack_size(DISK_STACK_BYTES)
        .spawn(serve)
        .map_err(|error| format!("starting the disk's thread: {error}"))?;
    Ok(theirs.into())
}
