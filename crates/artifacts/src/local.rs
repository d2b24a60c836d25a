//! A directory as a store.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use build::ObjectName;
use model::BuildId;
use rustix::fs::{Advice, fadvise};

use crate::durable::{Durable, Kernel};
use crate::error::ArtifactError;
use crate::staged::{PREFIX, Staged, remove_leftover};
use crate::store::{Object, Store, label};

/// How the directories of builds begin that are being removed. No build is called so.
const REMOVED: &str = ".removed-";

/// Builds as directories below one, on a local file system.
pub struct LocalStore {
    root: PathBuf,
    durable: Arc<dyn Durable>,
}

impl std::fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalStore").field("root", &self.root).finish_non_exhaustive()
    }
}

impl LocalStore {
    /// The store in the directory `root`, which is made if there is none, for its owner only. Its parent must exist.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(root: &Path) -> Result<Self, ArtifactError> {
        Self::with(root, Arc::new(Kernel))
    }

    pub(crate) fn with(root: &Path, durable: Arc<dyn Durable>) -> Result<Self, ArtifactError> {
        match DirBuilder::new().mode(0o700).create(root) {
            Ok(()) => {
                let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
                let parent = parent.unwrap_or(Path::new("."));
                durable.sync_dir(parent).map_err(ArtifactError::path("sync", parent))?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(ArtifactError::path("create", root)(error)),
        }
        Ok(Self { root: root.to_owned(), durable })
    }

    /// Removes what crashed processes left of builds that were never published, or half removed. Those that a running
    /// process is making stay. Returns how many were removed.
    ///
    /// # Errors
    /// When the directory cannot be read, or something in it cannot be removed; the others are, all the same.
    pub fn clean_staging(&self) -> Result<usize, ArtifactError> {
        let mut removed = 0;
        let mut result = Ok(());
        for name in self.names()? {
            let path = self.root.join(&name);
            let gone = if name.starts_with(PREFIX) {
                remove_leftover(&path)
            } else if name.starts_with(REMOVED) {
                remove_all(&path).map(|()| true)
            } else {
                continue;
            };
            match gone {
                Ok(gone) => removed += usize::from(gone),
                Err(error) => result = Err(ArtifactError::path("remove", &path)(error)),
            }
        }
        result.map(|()| removed)
    }

    /// Has the kernel forget what it keeps in memory of a build's objects, so that whoever reads them next waits for the disk.
    /// What is not on the disk yet stays.
    ///
    /// # Errors
    /// When one of its objects cannot be opened.
    pub fn forget(&self, build: &BuildId) -> Result<(), ArtifactError> {
        for name in ObjectName::ALL {
            let object = label(build, name);
            match File::open(self.dir(build).join(name.file_name())) {
                Ok(file) => fadvise(&file, 0, None, Advice::DontNeed)
                    .map_err(|error| ArtifactError::object("forget", &object)(error.into()))?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ArtifactError::object("open", &object)(error)),
            }
        }
        Ok(())
    }

    fn dir(&self, build: &BuildId) -> PathBuf {
        self.root.join(build.as_str())
    }

    /// The names in the store's directory. What is no text is none of ours.
    fn names(&self) -> Result<Vec<String>, ArtifactError> {
        let failed = |error| ArtifactError::path("list", &self.root)(error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }
}

impl Store for LocalStore {
    fn open(&self, build: &BuildId, name: ObjectName) -> Result<Box<dyn Object>, ArtifactError> {
        let object = label(build, name);
        let file = match File::open(self.dir(build).join(name.file_name())) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ArtifactError::Missing { object });
            }
            Err(error) => return Err(ArtifactError::object("open", &object)(error)),
        };
        let len = file.metadata().map_err(ArtifactError::object("look at", &object))?.len();
        Ok(Box::new(LocalObject { file, len }))
    }

    fn begin(&self, build: &BuildId) -> Result<Staged, ArtifactError> {
        if self.contains(build)? {
            return Err(ArtifactError::Exists(build.clone()));
        }
        Staged::begin(&self.root, build, self.durable.clone())
    }

    fn contains(&self, build: &BuildId) -> Result<bool, ArtifactError> {
        // A build gets its name when it is complete. Whatever it lost since then, it is one.
        let dir = self.dir(build);
        for name in ObjectName::ALL {
            let path = dir.join(name.file_name());
            if path.try_exists().map_err(ArtifactError::path("look at", &path))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn remove(&self, build: &BuildId) -> Result<(), ArtifactError> {
        // It disappears at once: nobody opens a build of which half is gone.
        let (dir, removed) =
            (self.dir(build), self.root.join(format!("{REMOVED}{build}-{}", std::process::id())));
        remove_all(&removed).map_err(ArtifactError::path("remove", &removed))?;
        match self.durable.rename(&dir, &removed) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(ArtifactError::path("remove", &dir)(error)),
        }
        self.durable.sync_dir(&self.root).map_err(ArtifactError::path("sync", &self.root))?;
        remove_all(&removed).map_err(ArtifactError::path("remove", &removed))
    }

    fn list(&self) -> Result<Vec<BuildId>, ArtifactError> {
        let mut builds = Vec::new();
        for build in self.names()?.iter().filter_map(|name| name.parse().ok()) {
            if self.contains(&build)? {
                builds.push(build);
            }
        }
        builds.sort_unstable();
        Ok(builds)
    }
}

/// Removes a directory, which may be gone already.
fn remove_all(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

struct LocalObject {
    file: File,
    len: u64,
}

impl Object for LocalObject {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
