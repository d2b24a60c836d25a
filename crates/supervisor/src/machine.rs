//! Putting the machine together: memory, disk, tap, console and the VMM that joins them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use build::Pages;
use cgroup::{Group, Hierarchy, Limits};
use control::{Accel, BuildFiles, CgroupLimits, Launch, Start};
use disk::{Overlay, RawImage};
use guest_memory::{GuestMemory, PageServer};
use network::guest;
use vmm::{Confinement, Driver, Machine, RootDisk, Vm};

use crate::origin::{self, Origin};
use crate::paging;

/// The private part of the root disk. It has no name once it is open: nothing is left of it when its supervisor dies.
const DISK_FILE: &str = "disk.cow";
/// The NBD server keeps its buffers on the heap.
const DISK_STACK_BYTES: usize = 256 << 10;
/// What is worth bringing before it is asked for: 10 MiB. Every page of it is memory that an idle sandbox holds.
const MAX_WORKING_SET_PAGES: u64 = 2560;
/// The name of a machine that is nobody's: a template. Whoever it becomes is told its name.
const TEMPLATE_HOSTNAME: &str = "coldframe";

/// A launched VMM and what the supervisor keeps of its machine.
pub(crate) struct Launched {
    pub(crate) vm: Box<dyn Vm>,
    pub(crate) console: tokio::net::UnixStream,
    pub(crate) group: Group,
    pub(crate) parts: Parts,
}

/// What a machine is made of, apart from its VMM: with a device state, all that a snapshot needs.
pub(crate) struct Parts {
    pub(crate) memory: GuestMemory,
    pub(crate) disk: Arc<Overlay>,
    /// What it goes on from; `None` for one that booted.
    pub(crate) origin: Option<Origin>,
    /// Brings the memory of one that goes on from a build.
    pub(crate) pages: Option<PageServer>,
    /// What was touched in the first moments, once they are over.
    pub(crate) touched_early: OnceLock<Vec<(u64, u64)>>,
    /// Which VMM it is.
    pub(crate) identity: vmm::Identity,
}

impl Parts {
    /// Says that the first moments are over.
    pub(crate) fn settle(&self) {
        self.touched_early.get_or_init(|| self.touched());
    }

    /// What the next machine that goes on from here is likely to touch first, in that order: (first page, pages).
    pub(crate) fn working_set(&self) -> Vec<(u64, u64)> {
        self.touched_early.get().cloned().unwrap_or_else(|| self.touched())
    }

    /// What was prefetched, which therefore was not seen to be touched, and what was touched beside.
    fn touched(&self) -> Vec<(u64, u64)> {
        let (Some(origin), Some(pages)) = (&self.origin, &self.pages) else { return Vec::new() };
        let mut room = MAX_WORKING_SET_PAGES;
        let known = origin.working_set();
        let all = known.into_iter().chain(pages.working_set());
        let fits = all.map_while(|range| {
            let pages = (range.end - range.start).min(room);
            room -= pages;
            (pages > 0).then_some((range.start, pages))
        });
        fits.collect()
    }
}

/// Launches the sandbox's VMM: booting, or waiting for the state of its build. Must run on the thread that lives as long
/// as the process: the VMM dies with it.
pub(crate) async fn launch(
    driver: &dyn Driver,
    launch: &Launch,
    dir: &Path,
    preload: &[u8],
) -> Result<Launched, String> {
    let hierarchy = Hierarchy::discover().map_err(|error| error.to_string())?;
    let limits = Limits {
        memory_max: Some(launch.limits.memory_max),
        pids_max: Some(launch.limits.pids_max),
        cpu_max: Some((launch.limits.cpu_quota_us, CgroupLimits::CPU_PERIOD_US)),
    };
    let group = hierarchy.create(&launch.cgroup.join("vmm"), &limits).map_err(|error| error.to_string())?;
    let procs = group.procs_fd().map_err(|error| format!("opening the VMM's control group: {error}"))?;

    let shape = launch.spec.shape;
    let memory = GuestMemory::create(shape.memory.bytes())
        .map_err(|error| format!("making {} of guest memory: {error}", shape.memory))?;
    let kept = memory.try_clone().map_err(|error| format!("keeping the guest's memory: {error}"))?;
    let accel = match launch.accel {
        Accel::Kvm => vmm::Accel::Kvm,
        Accel::Tcg => vmm::Accel::Tcg,
    };
    let (base, origin): (Arc<dyn Pages>, _) = match &launch.start {
        Start::Boot(BuildFiles { rootfs, .. }) => {
            let image = RawImage::open(rootfs).map_err(|error| error.to_string())?;
            (Arc::new(image), None)
        }
        Start::Resume(build) => {
            let origin = origin::open(&launch.store, build, shape)?;
            (Arc::clone(&origin.disk) as Arc<dyn Pages>, Some(origin))
        }
    };
    let (disk, root_disk) = serve_disk(base, shape.disk.bytes(), dir)?;
    let tap = network::open_tap().map_err(|error| format!("opening the tap {}: {error}", guest::TAP))?;
    let (console, console_vmm) = console().map_err(|error| format!("making the console: {error}"))?;
    let (start, handshake) = match &launch.start {
        Start::Boot(BuildFiles { kernel, initrd, .. }) => {
            let cmdline = guest_parameters(launch);
            (vmm::Start::Boot { kernel: kernel.clone(), initrd: initrd.clone(), cmdline }, None)
        }
        Start::Resume(_) => {
            let (preload, ours) = paging::preload(preload)?;
            (vmm::Start::Incoming { preload: Some(preload) }, Some(ours))
        }
    };

    let machine = Machine {
        vcpus: shape.vcpus,
        memory,
        start,
        root_disk: RootDisk::Nbd(root_disk),
        tap: Some(tap),
        mac: guest::GUEST_MAC,
        console: console_vmm.into(),
        accel,
        confinement: Confinement {
            user: Some((launch.vmm_uid, group_of(launch))),
            cgroup_procs: Some(procs),
        },
    };
    let vm = driver.launch(machine).await.map_err(|error| error.to_string())?;
    let pages = match (handshake, &origin) {
        (Some(handshake), Some(origin)) => {
            origin::check(&origin.manifest, vm.identity())?;
            Some(paging::serve(handshake, origin, vm.pid()).await?)
        }
        _ => None,
    };
    let identity = vm.identity().clone();
    let parts = Parts { memory: kept, disk, origin, pages, touched_early: OnceLock::new(), identity };
    Ok(Launched { vm, console, group, parts })
}

/// Our end of the console and the VMM's, which blocks.
fn console() -> io::Result<(tokio::net::UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?, theirs))
}

/// What `guest-init` reads from the kernel's command line.
fn guest_parameters(launch: &Launch) -> String {
    let hostname = match launch.goal {
        control::Goal::Run => launch.spec.id.as_str(),
        control::Goal::Snapshot(_) => TEMPLATE_HOSTNAME,
    };
    let dns: Vec<String> = launch.dns.iter().map(ToString::to_string).collect();
    format!(
        "coldframe.hostname={hostname} coldframe.ip={}/{} coldframe.gw={} coldframe.dns={}",
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
fn serve_disk(base: Arc<dyn Pages>, size: u64, dir: &Path) -> Result<(Arc<Overlay>, OwnedFd), String> {
    let path = dir.join(DISK_FILE);
    let overlay =
        Overlay::create(base, &path, size).map_err(|error| format!("making the root disk: {error}"))?;
    std::fs::remove_file(&path).map_err(|error| format!("unlinking {}: {error}", path.display()))?;
    let (ours, theirs) = UnixStream::pair().map_err(|error| format!("making the disk's socket: {error}"))?;
    let overlay = Arc::new(overlay);
    let served = Arc::clone(&overlay);
    let serve = move || match disk::nbd::serve(ours, served) {
        Ok(_) => tracing::info!("the VMM closed its disk"),
        Err(error) => tracing::warn!(%error, "serving the disk ended"),
    };
    std::thread::Builder::new()
        .name("disk".into())
        .stack_size(DISK_STACK_BYTES)
        .spawn(serve)
        .map_err(|error| format!("starting the disk's thread: {error}"))?;
    Ok((overlay, theirs.into()))
}
