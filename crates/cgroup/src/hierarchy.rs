//! The file system in which groups live.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::group::write_existing;
use crate::limits::CONTROLLERS;
use crate::mountinfo::cgroup2_mount_point;
use crate::{Applied, CgroupError, Group, Limits};

const MOUNTS: &str = "/proc/self/mountinfo";

/// A mounted cgroup v2 hierarchy. Names of groups are paths relative to its root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    root: PathBuf,
}

impl Hierarchy {
    /// The hierarchy of this host.
    ///
    /// # Errors
    /// [`CgroupError::Mounts`], or [`CgroupError::NotMounted`] when there is no cgroup v2.
    pub fn discover() -> Result<Self, CgroupError> {
        let mounts = fs::read(MOUNTS).map_err(|source| CgroupError::Mounts { path: MOUNTS, source })?;
        cgroup2_mount_point(&mounts).map(Self::at).ok_or(CgroupError::NotMounted)
    }

    /// The hierarchy below a known directory: a mount point, or a group that was delegated to this process.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory that names of groups are relative to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Makes a group and those above it that are missing, and sets the limits whose controllers exist. A group that
    /// exists already gets the limits.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`], [`CgroupError::Create`], [`CgroupError::Limit`]. A group made by a call that fails
    /// is taken away again.
    pub fn create(&self, relative: &Path, limits: &Limits) -> Result<Group, CgroupError> {
        let target = self.resolve(relative)?;
        let mut path = self.root.clone();
        let mut made = false;
        for component in relative.components() {
            enable_controllers(&path);
            path.push(component);
            made = match fs::create_dir(&path) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(source) => return Err(CgroupError::Create { path, source }),
            };
        }
        match limits.apply(&target) {
            Ok(applied) => Ok(Group::new(target, applied)),
            Err(error) => {
                if made {
                    // It is empty and nobody knows of it; the error worth reporting is the limit's.
                    drop(fs::remove_dir(&target));
                }
                Err(error)
            }
        }
    }

    /// A group by its name, whether or not it exists. Its [`Group::applied`] says "none", as nothing was applied
    /// through this handle.
    ///
    /// # Errors
    /// [`CgroupError::BadPath`].
    pub fn open(&self, relative: &Path) -> Result<Group, CgroupError> {
        Ok(Group::new(self.resolve(relative)?, Applied::default()))
    }

    /// The names of the groups directly below one (the empty path is the root), sorted.
    ///
    /// # Errors
    /// What the kernel says; [`io::ErrorKind::NotFound`] when there is no such group.
    pub fn children(&self, relative: &Path) -> io::Result<Vec<String>> {
        if relative.as_os_str().is_empty() {
            return child_names(&self.root);
        }
        child_names(
            &self.resolve(relative).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?,
        )
    }

    fn resolve(&self, relative: &Path) -> Result<PathBuf, CgroupError> {
        let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
        if inside && relative.components().next().is_some() {
            Ok(self.root.join(relative))
        } else {
            Err(CgroupError::BadPath { path: relative.to_owned() })
        }
    }
}

/// The names of the groups directly below a directory, sorted. Names that are not UTF-8 are an error, as a group
/// that cannot be named cannot be removed either.
pub(crate) fn child_names(group: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("the name of group {name:?} is not UTF-8"))
            })?;
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Lets the children of a group use the controllers that the group has. What cannot be switched on (a controller
/// that v1 holds, a group with processes of its own) shows in what [`Limits`] could be applied.
fn enable_controllers(group: &Path) {
    let Ok(available) = fs::read_to_string(group.join("cgroup.controllers")) else { return };
    let switch = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&switch).unwrap_or_default();
    let has = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    for name in CONTROLLERS.into_iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
        // One at a time: a write with several is refused as a whole.
        if let Err(error) = write_existing(&switch, format!("+{name}").as_bytes()) {
            tracing::debug!(group = %group.display(), controller = name, %error, "controller not enabled");
        }
    }
}
