//! Network volumes that the host wants to have mounted.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

/// Most volumes: each is mounted by a thread of its own.
pub(super) const MAX_VOLUMES: usize = 16;
/// Longest path and target, in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4095;

/// A volume as a request says it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Volume {
    /// `ADDRESS:/PATH` of an NFS server.
    pub(super) nfs_target: String,
    /// Where it is to be.
    pub(super) path: String,
}

impl Volume {
    /// The server's address and its path.
    pub(super) fn server(&self) -> Option<(IpAddr, &str)> {
        let (address, path) = self.nfs_target.rsplit_once(":/")?;
        let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
        let path = &self.nfs_target[self.nfs_target.len() - path.len() - 1..];
        Some((address.parse().ok()?, path))
    }
}

/// Checks all of them.
///
/// # Errors
/// What is wrong, for people.
pub(super) fn check(volumes: &[Volume]) -> Result<(), String> {
    if volumes.len() > MAX_VOLUMES {
        return Err(format!("more than {MAX_VOLUMES} volumeMounts"));
    }
    let mut paths = HashSet::new();
    for volume in volumes {
        let Volume { nfs_target, path } = volume;
        let normal = Path::new(path).components().skip(1).all(|part| matches!(part, Component::Normal(_)));
        if !path.starts_with('/') || path.trim_matches('/').is_empty() || !normal || !is_plain(path) {
            return Err(format!(
                "volumeMounts: path {path:?} is not an absolute path without .. to mount at"
            ));
        }
        if !is_plain(nfs_target) || nfs_target.contains(',') || volume.server().is_none() {
            return Err(format!("volumeMounts: nfs_target {nfs_target:?} is not of the form ADDRESS:/PATH"));
        }
        if !paths.insert(mount_point(volume)) {
            return Err(format!("volumeMounts: two volumes have the path {path:?}"));
        }
    }
    Ok(())
}

fn is_plain(text: &str) -> bool {
    text.len() <= MAX_PATH && !text.bytes().any(|byte| byte.is_ascii_control())
}

fn mount_point(volume: &Volume) -> PathBuf {
    Path::new(&volume.path).components().collect()
}

/// What is mounted, and since when.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    mounted: BTreeMap<PathBuf, (String, Option<String>)>,
}

impl Ledger {
    /// Of these volumes, those that are to be mounted (again): the new ones, those that come from elsewhere now, and all
    /// when the machine was resumed since, after which the connection to the server is gone. They count as mounted then.
    pub(super) fn due(&mut self, volumes: &[Volume], lifecycle: Option<&str>) -> Vec<Volume> {
        let mut due = Vec::new();
        for volume in volumes {
            let entry = (volume.nfs_target.clone(), lifecycle.map(str::to_owned));
            if self.mounted.get(&mount_point(volume)) != Some(&entry) {
                self.mounted.insert(mount_point(volume), entry);
                due.push(volume.clone());
            }
        }
        due
    }

    /// It could not be mounted: it is due the next time.
    pub(super) fn forget(&mut self, volume: &Volume) {
        self.mounted.remove(&mount_point(volume));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(target: &str, path: &str) -> Volume {
        Volume { nfs_target: target.into(), path: path.into() }
    }

    #[test]
    fn only_volumes_that_make_sense() {
        let good = [volume("10.0.0.1:/", "/mnt/a"), volume("[fd00::1]:/x/y", "/mnt/b/")];
        check(&good).unwrap();
        assert_eq!(good[0].server(), Some(("10.0.0.1".parse().unwrap(), "/")));
        assert_eq!(good[1].server(), Some(("fd00::1".parse().unwrap(), "/x/y")));
        for (target, path) in [
            ("10.0.0.1:/x", ""),
            ("10.0.0.1:/x", "/"),
            ("10.0.0.1:/x", "//"),
            ("10.0.0.1:/x", "mnt"),
            ("10.0.0.1:/x", "/mnt/../etc"),
            ("10.0.0.1:/x", "/mnt\n"),
            ("10.0.0.1", "/mnt"),
            ("10.0.0.1:x", "/mnt"),
            ("host:/x", "/mnt"),
            (":/x", "/mnt"),
            ("10.0.0.1:/x,soft", "/mnt"),
            ("", "/mnt"),
        ] {
            assert!(check(&[volume(target, path)]).is_err(), "{target:?} {path:?}");
        }
        assert!(
            check(&[good[0].clone(), volume("10.0.0.2:/", "/mnt//a")]).unwrap_err().contains("two volumes")
        );
        let many: Vec<Volume> =
            (0..=MAX_VOLUMES).map(|number| volume("10.0.0.1:/", &format!("/{number}"))).collect();
        assert!(check(&many).is_err());
    }

    #[test]
    fn what_is_mounted_again_and_what_is_not() {
        let (a, b) = (volume("10.0.0.1:/a", "/a"), volume("10.0.0.1:/b", "/b"));
        let mut ledger = Ledger::default();
        let all = [a, b.clone()];
        assert_eq!(ledger.due(&all[..1], Some("1")), all[..1]);
        // The same life: only what is new, or comes from elsewhere.
        assert_eq!(ledger.due(&all, Some("1")), all[1..]);
        assert_eq!(ledger.due(&all, Some("1")), []);
        let moved = volume("10.0.0.2:/a", "/a/");
        assert_eq!(ledger.due(std::slice::from_ref(&moved), Some("1")), [moved]);
        // Another life: all.
        assert_eq!(ledger.due(&all, Some("2")), all);
        assert_eq!(ledger.due(&all, Some("2")), []);
        ledger.forget(&b);
        assert_eq!(ledger.due(&all, Some("2")), [b]);
    }
}
