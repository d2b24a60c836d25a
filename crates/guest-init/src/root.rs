//! From the initramfs into the sandbox's root file system.

use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_move};
use rustix::process::{chdir, chroot};

use crate::error::{Attempt as _, Failure};
use crate::initramfs;

const NEW_ROOT: &str = "/newroot";
/// The driver finds the disk while its module is loaded, so it is there at once or something is wrong.
const DISK_DEADLINE: Duration = Duration::from_secs(10);

/// Makes the file system on `disk` the root, with `/dev` and `/proc` as they are, and frees the initramfs' memory.
pub(crate) fn enter(disk: &str) -> Result<(), Failure> {
    wait_for(disk)?;
    fs::create_dir_all(NEW_ROOT).attempt(|| format!("make {NEW_ROOT}"))?;
    // Access times would turn every read into a write to the copy-on-write disk.
    mount(disk, NEW_ROOT, "ext4", MountFlags::NOATIME, None).attempt(|| format!("mount {disk} as ext4"))?;
    for path in ["/dev", "/proc"] {
        let target = format!("{NEW_ROOT}{path}");
        fs::create_dir_all(&target).attempt(|| format!("make {path} on the root disk"))?;
        mount_move(path, &target).attempt(|| format!("move {path} to the root disk"))?;
    }
    let initramfs = openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .attempt(|| "open the initramfs".to_owned())?;
    chdir(NEW_ROOT).attempt(|| format!("enter {NEW_ROOT}"))?;
    mount_move(".", "/").attempt(|| "make the root disk the root".to_owned())?;
    chroot(".").attempt(|| "change the root".to_owned())?;
    free(&initramfs);
    Ok(())
}

/// Removes the files of the initramfs, which nobody can reach any more but which hold memory. What is open (modules that
/// are still to be loaded, envd) or runs (this program) stays until it is closed.
fn free(initramfs: &OwnedFd) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for dir in initramfs::MODULES.map(relative) {
        if let Ok(dir) = openat(initramfs, dir, flags, Mode::empty())
            && let Ok(entries) = Dir::read_from(&dir)
        {
            for entry in entries.flatten() {
                let _ = unlinkat(&dir, entry.file_name(), AtFlags::empty());
            }
        }
    }
    for file in [initramfs::INIT, initramfs::ENVD].map(relative) {
        let _ = unlinkat(initramfs, file, AtFlags::empty());
    }
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn wait_for(path: &str) -> Result<(), Failure> {
    let what = || format!("find the root disk {path}");
    if Path::new(path).exists() {
        return Ok(());
    }
    let deadline = Instant::now() + DISK_DEADLINE;
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).attempt(what)?;
    inotify::add_watch(&watch, "/dev", WatchFlags::CREATE).attempt(what)?;
    // Looked at again after the watch is set: it may have come in between.
    while !Path::new(path).exists() {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Failure::new(what(), Errno::INVAL))?;
        if left.is_zero()
            || poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&timeout)).attempt(what)? == 0
        {
            return Err(Failure::new(what(), Errno::TIMEDOUT));
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&watch, &mut buffer);
        while events.next().is_ok() {}
    }
    Ok(())
}
