//! Putting the machine together: memory, disk, tap, console and the VMM that joins them.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use artifacts::Image;
use build::{BootFiles, Pages, Run};
use cgroup::{Group, Hierarchy, Limits};
use control::{Accel, BuildFiles, CgroupLimits, Launch, Reboot, Standby, Start};
use disk::{BlockDevice, Frozen, Late, Overlay, RawImage};
use guest_memory::{GuestMemory, PageServer, dirty};
use model::BuildId;
use network::guest;
use vmm::{Confinement, Driver, Machine, RootDisk, Vm};

use crate::origin::{self, Origin, Unusable};
use crate::paging;

/// The private part of the root disk. It has no name once it is open: nothing is left of it when its supervisor dies.
pub(crate) const DISK_FILE: &str = "disk.cow";
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
    /// What it goes on from, or whose disk it booted from; `None` for one that booted from a template's files.
    pub(crate) origin: Option<Origin>,
    /// What the next build is a difference from: what it goes on from, or what was last made of it.
    parent: Mutex<Option<Parent>>,
    /// Brings the memory of one that goes on from a build.
    pub(crate) pages: Option<PageServer>,
    /// What was touched in the first moments, once they are over.
    pub(crate) touched_early: OnceLock<Vec<(u64, u64)>>,
    /// Which VMM it is.
    pub(crate) identity: vmm::Identity,
    /// What boots its disk.
    pub(crate) boot: Option<BootFiles>,
    /// How the memory that it goes on from turned out to be lost.
    pub(crate) lost: Arc<OnceLock<String>>,
}

/// What another build is a difference from.
#[derive(Clone)]
pub(crate) struct Parent {
    /// The newest build of which it is one.
    pub(crate) build: BuildId,
    /// Of an older build where the newest has none; `None` when the machine's memory has nothing to do with a build's.
    pub(crate) memory: Option<Arc<Image>>,
    pub(crate) disk: Arc<Image>,
}

impl Parts {
    pub(crate) fn parent(&self) -> Option<Parent> {
        self.parent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next build is a difference from this one, whose disk holds all that `frozen` does.
    pub(crate) fn rebase(&self, parent: Parent, frozen: &Frozen) -> io::Result<()> {
        self.disk.rebase(frozen, Arc::clone(&parent.disk) as Arc<dyn Pages>)?;
        *self.parent.lock().unwrap_or_else(PoisonError::into_inner) = Some(parent);
        Ok(())
    }

    /// The pages that may differ from the parent's, or, without one, from zeros. To be asked while the guest stands still
    /// and its device state was saved.
    pub(crate) fn changed(&self, vmm_pid: i32) -> io::Result<Vec<Range<u64>>> {
        let Some(pages) = &self.pages else {
            let mut populated = dirty::populated(&self.memory).map_err(io::Error::other)?;
            // What the parent has and the guest gave away since is zero now.
            let memory = self.parent().and_then(|parent| parent.memory);
            populated.extend(memory.iter().flat_map(|memory| data(&**memory)));
            return Ok(populated);
        };
        let removed = pages.removed();
        let pid = u32::try_from(vmm_pid).map_err(io::Error::other)?;
        dirty::scan(pid, pages.regions(), Some(self.memory.as_fd()), &removed).map_err(io::Error::other)
    }

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

/// The pages of an image that are not zero.
fn data(image: &dyn Pages) -> Vec<Range<u64>> {
    let (mut found, mut page) = (Vec::new(), 0);
    while page < image.pages() {
        page += match image.run(page) {
            Run::Zero(pages) => pages,
            Run::Data(pages) => {
                found.push(page..page + pages);
                pages
            }
        };
    }
    found
}

/// A VMM that runs, or waits for a build to go on from.
pub(crate) struct Standing {
    pub(crate) vm: Box<dyn Vm>,
    console: tokio::net::UnixStream,
    group: Group,
    memory: GuestMemory,
    disk: Arc<Late>,
    /// Where it hands over its memory, when that comes page by page.
    handshake: Option<UnixStream>,
}

/// Launches a VMM that waits for a build, which is not known yet. Must run on the thread that lives as long as the
/// process: the VMM dies with it.
pub(crate) async fn stand_by(
    driver: &dyn Driver,
    machine: &Standby,
    preload: &[u8],
) -> Result<Standing, String> {
    let disk = Arc::new(Late::new(machine.shape.disk.bytes()));
    let (preload, ours) = paging::preload(preload)?;
    stand(driver, machine, vmm::Start::Incoming { preload: Some(preload) }, Some(ours), disk).await
}

/// Makes the sandbox's machine of a VMM that stands by, or of one that is launched for it. Must run on the thread that
/// lives as long as the process.
pub(crate) async fn launch(
    driver: &dyn Driver,
    launch: &Launch,
    dir: &Path,
    preload: &[u8],
    standing: Option<Standing>,
) -> Result<Launched, Unusable> {
    let (base, origin): (Arc<dyn Pages>, _) = match &launch.start {
        Start::Boot(BuildFiles { rootfs, .. }) => {
            let image = RawImage::open(rootfs).map_err(|error| error.to_string())?;
            (Arc::new(image), None)
        }
        Start::Resume(build) => {
            let origin = origin::open(&launch.store, build, launch.spec.shape)?;
            (Arc::clone(&origin.disk) as Arc<dyn Pages>, Some(origin))
        }
        Start::Reboot(reboot) => {
            let origin = origin::open_disk(&launch.store, &reboot.build, launch.spec.shape)?;
            (Arc::clone(&origin.disk) as Arc<dyn Pages>, Some(origin))
        }
    };
    let boot = match &launch.start {
        Start::Boot(BuildFiles { kernel, initrd, .. }) | Start::Reboot(Reboot { kernel, initrd, .. }) => {
            boot_files(kernel, initrd)
        }
        Start::Resume(_) => origin.as_ref().and_then(|origin| origin.manifest.boot.clone()),
    };
    let size = launch.spec.shape.disk.bytes();
    let overlay = overlay(base, size, dir)?;
    let bind = |disk: &Late| {
        let bound = disk.bind(Arc::clone(&overlay) as Arc<dyn BlockDevice>);
        bound.map_err(|error| format!("giving the machine its disk: {error}"))
    };
    let standing = match (standing, &launch.start) {
        (Some(standing), Start::Resume(_)) => {
            bind(&standing.disk)?;
            standing
        }
        (Some(_), Start::Boot(_) | Start::Reboot(_)) => {
            return Err("a machine that stands by for a build cannot boot".to_owned().into());
        }
        (
            None,
            Start::Boot(BuildFiles { kernel, initrd, .. }) | Start::Reboot(Reboot { kernel, initrd, .. }),
        ) => {
            let cmdline = guest_parameters(launch);
            let start = vmm::Start::Boot { kernel: kernel.clone(), initrd: initrd.clone(), cmdline };
            // The guest reads it at once.
            let disk = Late::new(size);
            bind(&disk)?;
            stand(driver, &launch.machine(), start, None, Arc::new(disk)).await?
        }
        (None, Start::Resume(_)) => {
            let standing = stand_by(driver, &launch.machine(), preload).await?;
            bind(&standing.disk)?;
            standing
        }
    };
    let Standing { vm, console, group, memory, handshake, .. } = standing;
    let lost = Arc::new(OnceLock::new());
    let saved = origin.as_ref().and_then(|origin| Some((origin, origin.saved.as_ref()?)));
    let pages = match (handshake, saved) {
        (Some(handshake), Some((origin, saved))) => {
            origin::check(&origin.manifest, vm.identity())?;
            Some(paging::serve(handshake, &saved.memory, vm.pid(), Arc::clone(&lost)).await?)
        }
        _ => None,
    };
    let identity = vm.identity().clone();
    let parent = Mutex::new(origin.as_ref().map(Origin::parent));
    let touched_early = OnceLock::new();
    let parts = Parts { memory, disk: overlay, origin, parent, pages, touched_early, identity, boot, lost };
    Ok(Launched { vm, console, group, parts })
}

/// As builds keep them; `None` for paths that are no text.
fn boot_files(kernel: &Path, initrd: &Path) -> Option<BootFiles> {
    Some(BootFiles { kernel: kernel.to_str()?.to_owned(), initrd: initrd.to_str()?.to_owned() })
}

async fn stand(
    driver: &dyn Driver,
    wanted: &Standby,
    start: vmm::Start,
    handshake: Option<UnixStream>,
    disk: Arc<Late>,
) -> Result<Standing, String> {
    let hierarchy = Hierarchy::discover().map_err(|error| error.to_string())?;
    let limits = Limits {
        memory_max: Some(wanted.limits.memory_max),
        pids_max: Some(wanted.limits.pids_max),
        cpu_max: Some((wanted.limits.cpu_quota_us, CgroupLimits::CPU_PERIOD_US)),
    };
    let group = hierarchy.create(&wanted.cgroup.join("vmm"), &limits).map_err(|error| error.to_string())?;
    let procs = group.procs_fd().map_err(|error| format!("opening the VMM's control group: {error}"))?;
    let shape = wanted.shape;
    let memory = GuestMemory::create(shape.memory.bytes())
        .map_err(|error| format!("making {} of guest memory: {error}", shape.memory))?;
    let kept = memory.try_clone().map_err(|error| format!("keeping the guest's memory: {error}"))?;
    let root_disk = serve_disk(Arc::clone(&disk))?;
    let tap = network::open_tap().map_err(|error| format!("opening the tap {}: {error}", guest::TAP))?;
    let (console, console_vmm) = console().map_err(|error| format!("making the console: {error}"))?;
    let machine = Machine {
        vcpus: shape.vcpus,
        memory,
        start,
        root_disk: RootDisk::Nbd(root_disk),
        tap: Some(tap),
        mac: guest::GUEST_MAC,
        console: console_vmm.into(),
        accel: match wanted.accel {
            Accel::Kvm => vmm::Accel::Kvm,
            Accel::Tcg => vmm::Accel::Tcg,
        },
        program: wanted.vmm.clone(),
        confinement: Confinement {
            user: Some((wanted.vmm_uid, group_of(wanted))),
            cgroup_procs: Some(procs),
        },
    };
    let vm = driver.launch(machine).await.map_err(|error| error.to_string())?;
    Ok(Standing { vm, console, group, memory: kept, disk, handshake })
}

/// Our end of the console and the VMM's, which blocks.
fn console() -> io::Result<(tokio::net::UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?, theirs))
}

/// What `guest-init` reads from the kernel's command line.
fn guest_parameters(launch: &Launch) -> String {
    let hostname = if launch.goal.is_template() { TEMPLATE_HOSTNAME } else { launch.spec.id.as_str() };
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
fn group_of(machine: &Standby) -> u32 {
    use std::os::unix::fs::MetadataExt;
    match machine.accel {
        Accel::Kvm => std::fs::metadata("/dev/kvm").map_or(machine.vmm_uid, |meta| meta.gid()),
        Accel::Tcg => machine.vmm_uid,
    }
}

/// The private part of the disk, over `base`.
fn overlay(base: Arc<dyn Pages>, size: u64, dir: &Path) -> Result<Arc<Overlay>, String> {
    let path = dir.join(DISK_FILE);
    let overlay =
        Overlay::create(base, &path, size).map_err(|error| format!("making the root disk: {error}"))?;
    std::fs::remove_file(&path).map_err(|error| format!("unlinking {}: {error}", path.display()))?;
    Ok(Arc::new(overlay))
}

/// Starts the disk's server on a thread of its own; it ends when the VMM closes the socket it gets here.
fn serve_disk(disk: Arc<Late>) -> Result<OwnedFd, String> {
    let (ours, theirs) = UnixStream::pair().map_err(|error| format!("making the disk's socket: {error}"))?;
    let serve = move || match disk::nbd::serve(ours, disk) {
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
