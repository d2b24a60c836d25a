//! Namespaces with a name: files in `/run/netns` with a namespace mounted on them, as `ip netns` makes them, so that
//! operators can look into a sandbox's network with `ip netns exec`.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, UnmountFlags, mount_bind, mount_bind_recursive, mount_change, unmount,
};

use crate::NetworkError;

const DIRECTORY: &str = "/run/netns";
/// How many mounts can lie on one name before something is badly wrong.
const MAX_LAYERS: usize = 8;

/// Where a namespace of that name is.
pub(crate) fn path_of(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes the directory what `ip netns` would make it: a mount of its own that shares what is mounted in it with other
/// mount namespaces. Done before anything is mounted there; a later bind would hide it.
pub(crate) fn prepare_directory() -> Result<(), NetworkError> {
    fs::create_dir_all(DIRECTORY).map_err(NetworkError::io(format!("create {DIRECTORY}")))?;
    // `ip netns` takes the same lock: two processes that both find no mount would stack two.
    let lock = File::open(DIRECTORY).map_err(NetworkError::io(format!("open {DIRECTORY}")))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(NetworkError::errno(format!("lock {DIRECTORY}")))?;
    let share = || mount_change(DIRECTORY, MountPropagationFlags::SHARED | MountPropagationFlags::REC);
    match share() {
        Err(Errno::INVAL) => mount_bind_recursive(DIRECTORY, DIRECTORY).and_then(|()| share()),
        done => done,
    }
    .map_err(NetworkError::errno(format!("make {DIRECTORY} a shared mount")))
}

/// Reserves a name. `None` when it is taken.
pub(crate) fn reserve(name: &str) -> Result<Option<PathBuf>, NetworkError> {
    let path = path_of(name);
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(source) => Err(NetworkError::Io { attempt: format!("create {}", path.display()), source }),
    }
}

/// Gives the reserved name to the calling thread's namespace.
pub(crate) fn bind_current(path: &Path) -> Result<(), NetworkError> {
    mount_bind("/proc/thread-self/ns/net", path)
        .map_err(NetworkError::errno(format!("mount a network namespace on {}", path.display())))
}

/// Takes the name away; done when there is none. The namespace lives on as long as processes are in it.
pub(crate) fn remove(name: &str) -> Result<(), NetworkError> {
    let path = path_of(name);
    for _ in 0..MAX_LAYERS {
        match unmount(&path, UnmountFlags::DETACH) {
            // EINVAL: nothing is mounted on it.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => {
                return Err(NetworkError::errno(format!("unmount {}", path.display()))(error));
            }
        }
        match fs::remove_file(&path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Another mount was below.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(source) => {
                return Err(NetworkError::Io { attempt: format!("remove {}", path.display()), source });
            }
        }
    }
    Err(NetworkError::errno(format!("remove {}", path.display()))(Errno::BUSY))
}

/// Every name there is. Other programs' too.
pub(crate) fn list() -> Result<Vec<String>, NetworkError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(NetworkError::io(format!("list {DIRECTORY}")))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(NetworkError::io(format!("list {DIRECTORY}")))?;
        // A name that is not UTF-8 is not one of ours.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}
