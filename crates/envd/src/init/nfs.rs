//! Mounting a network volume. All of this blocks, for ever when the server does.

use std::ffi::CString;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::volumes::Volume;

/// As E2B mounts them (nfs(5)). The options that the tool for mounting reads and the kernel does not are not here.
const OPTIONS: &str = "hard,rsize=1048576,wsize=1048576,mountproto=tcp,mountport=2049,proto=tcp,port=2049,vers=3,\
                       noacl,noac,lookupcache=none";

/// Mounts a volume where it belongs, instead of one that is there.
///
/// # Errors
/// What could not be done and why, for people.
pub(super) fn replace(volume: &Volume) -> Result<(), String> {
    let path = Path::new(&volume.path);
    if is_mounted(&volume.path) {
        // A server that is gone: nobody waits for it, and whoever uses it keeps what it has.
        unmount(path, UnmountFlags::FORCE)
            .or_else(|_| unmount(path, UnmountFlags::DETACH))
            .map_err(|error| format!("cannot unmount what is at {}: {error}", volume.path))?;
    }
    std::fs::create_dir_all(path)
        .map_err(|error| format!("cannot make the directory {}: {error}", volume.path))?;
    let failed = |error: io::Error| {
        let hint = match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NODEV) => ": this machine's kernel has no NFS client",
            Some(Errno::PERM) => ": only root may mount",
            _ => "",
        };
        format!("cannot mount {} at {}: {error}{hint}", volume.nfs_target, volume.path)
    };
    let (address, _) = volume.server().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let options = CString::new(format!("{OPTIONS},addr={address}")).map_err(|error| failed(error.into()))?;
    mount(volume.nfs_target.as_str(), path, "nfs", MountFlags::SYNCHRONOUS, options.as_c_str())
        .map_err(|error| failed(error.into()))
}

fn is_mounted(path: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let path = path.trim_end_matches('/');
    mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|point| unescape(point) == path))
}

/// Blanks and the like are written as three octal digits (proc_pid_mountinfo(5)).
fn unescape(text: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_and_why() {
        // A directory cannot be made there, whoever we are.
        let volume = Volume { nfs_target: "127.0.0.1:/x".into(), path: "/proc/version/below".into() };
        let error = replace(&volume).unwrap_err();
        assert!(error.contains("cannot make the directory /proc/version/below: "), "{error}");
    }

    #[test]
    fn mount_points_are_found() {
        assert!(is_mounted("/proc") && is_mounted("/proc/"));
        assert!(!is_mounted("/proc/self") && !is_mounted("/no/such"));
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
    }
}
