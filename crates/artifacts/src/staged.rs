//! A build that is being made.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use build::{BlobInfo, Manifest, ObjectInfo, ObjectKind, ObjectName, checksum};
use model::BuildId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::durable::Durable;
use crate::error::ArtifactError;
use crate::image::Image;
use crate::store::label;
use crate::writer::ImageWriter;

/// How the directories of unpublished builds begin. No build is called so.
pub(crate) const PREFIX: &str = ".staging-";

/// How often a directory is made that a cleaner takes for a leftover. It has microseconds to do so, once.
const ATTEMPTS: usize = 5;

/// A build that is being made in a private directory. Dropping it before it is published removes everything.
pub struct Staged {
    staging: Arc<Staging>,
    durable: Arc<dyn Durable>,
    /// The store's directory.
    root: PathBuf,
    /// What is removed in the end, if the build is not published.
    remove: Option<PathBuf>,
}

/// What a staged build and the writers of its images share.
pub(crate) struct Staging {
    pub(crate) build: BuildId,
    dir: PathBuf,
    /// Keeps cleaners away as long as it is open.
    _lock: File,
    objects: Mutex<Vec<Written>>,
}

/// An object that was created.
struct Written {
    name: ObjectName,
    /// Its file and what is in it; `None` as long as it is being written.
    complete: Option<(File, BlobInfo)>,
}

impl Staging {
    /// Creates the file of an object.
    pub(crate) fn create(&self, name: ObjectName) -> Result<File, ArtifactError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o400)
            .open(self.path(name))
            .map_err(ArtifactError::object("create", &label(&self.build, name)))?;
        self.objects().push(Written { name, complete: None });
        Ok(file)
    }

    /// Says that an object is complete. `crc` is that of all its bytes, or what identifies them as well.
    pub(crate) fn written(&self, name: ObjectName, file: File, bytes: u64, crc: u32) {
        // All objects are on their way when the first is synced. A file system that cannot has more to do then.
        let _ = sys::writeback::begin(&file, 0..bytes);
        if let Some(object) = self.objects().iter_mut().find(|object| object.name == name) {
            object.complete = Some((file, BlobInfo { bytes, crc }));
        }
    }

    /// Writes a small object as a whole.
    pub(crate) fn put(&self, name: ObjectName, bytes: &[u8]) -> Result<BlobInfo, ArtifactError> {
        use io::Write as _;
        let mut file = self.create(name)?;
        file.write_all(bytes).map_err(ArtifactError::object("write", &label(&self.build, name)))?;
        let info = BlobInfo { bytes: bytes.len() as u64, crc: checksum(bytes) };
        self.written(name, file, info.bytes, info.crc);
        Ok(info)
    }

    fn path(&self, name: ObjectName) -> PathBuf {
        self.dir.join(name.file_name())
    }

    /// What there is of an object, if it is complete.
    fn info(&self, name: ObjectName) -> Option<BlobInfo> {
        let objects = self.objects();
        objects.iter().find(|object| object.name == name)?.complete.as_ref().map(|(_, info)| *info)
    }

    /// What there is of an image, as the manifest says it.
    fn image(&self, kind: ObjectKind) -> Option<ObjectInfo> {
        let (data, header) = (self.info(kind.data())?, self.info(kind.header())?);
        Some(ObjectInfo { bytes: data.bytes, header_crc: header.crc })
    }

    // Nothing panics while it holds the lock.
    fn objects(&self) -> MutexGuard<'_, Vec<Written>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staged {
    /// Makes the private directory in the store's directory `root`.
    pub(crate) fn begin(
        root: &Path,
        build: &BuildId,
        durable: Arc<dyn Durable>,
    ) -> Result<Self, ArtifactError> {
        let dir = root.join(format!("{PREFIX}{build}-{}", std::process::id()));
        let lock = make_dir(&dir).map_err(ArtifactError::path("create", &dir))?;
        let staging =
            Staging { build: build.clone(), dir: dir.clone(), _lock: lock, objects: Mutex::default() };
        Ok(Self { staging: Arc::new(staging), durable, root: root.to_owned(), remove: Some(dir) })
    }

    /// The build's name.
    #[must_use]
    pub fn build(&self) -> &BuildId {
        &self.staging.build
    }

    /// Starts an image of `pages` pages that continues `parent`, or zeros. The images of a build may be written by
    /// different threads at once.
    ///
    /// # Errors
    /// When its file cannot be created; it can be once.
    pub fn writer(
        &self,
        kind: ObjectKind,
        parent: Option<Arc<Image>>,
        pages: u64,
    ) -> Result<ImageWriter, ArtifactError> {
        ImageWriter::new(self.staging.clone(), kind, parent, pages)
    }

    /// Stores an object that is no image.
    ///
    /// # Errors
    /// When it cannot be stored; it can be once.
    pub fn put_blob(&self, name: ObjectName, bytes: &[u8]) -> Result<BlobInfo, ArtifactError> {
        self.staging.put(name, bytes)
    }

    /// Makes the build appear in the store. When this returns, it is there after a power cut, too.
    ///
    /// # Errors
    /// When the manifest says something else than what was written, an image is not finished, the storage fails, or the
    /// build exists by now. Nothing is left of it then.
    pub fn publish(mut self, manifest: &Manifest) -> Result<(), ArtifactError> {
        self.check(manifest).map_err(|why| ArtifactError::Incomplete { build: self.build().clone(), why })?;
        let bytes = manifest.encode().map_err(|source| {
            let object = label(self.build(), ObjectName::Manifest);
            ArtifactError::Format { object, source }
        })?;
        self.staging.put(ObjectName::Manifest, &bytes)?;

        for Written { name, complete } in &*self.staging.objects() {
            if let Some((file, _)) = complete {
                let failed = ArtifactError::object("sync", &label(self.build(), *name));
                self.durable.sync_file(file, &self.staging.path(*name)).map_err(failed)?;
            }
        }
        let dir = &self.staging.dir;
        self.durable.sync_dir(dir).map_err(ArtifactError::path("sync", dir))?;

        let published = self.root.join(self.build().as_str());
        self.durable.rename(dir, &published).map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                ArtifactError::Exists(self.build().clone())
            }
            _ => ArtifactError::path("publish", &published)(source),
        })?;
        if let Err(error) = self.durable.sync_dir(&self.root) {
            // Whoever is told that it failed will do without it: it must not be there after all. It disappears at once, and
            // what is removed then is nobody's.
            if self.durable.rename(&published, dir).is_err() {
                self.remove = Some(published);
            }
            return Err(ArtifactError::path("sync", &self.root)(error));
        }
        self.remove = None;
        Ok(())
    }

    fn check(&self, manifest: &Manifest) -> Result<(), String> {
        let staging = &self.staging;
        if manifest.id != staging.build {
            return Err(format!("its manifest is that of build {}", manifest.id));
        }
        if let Some(object) = staging.objects().iter().find(|object| object.complete.is_none()) {
            return Err(format!("{} is not finished", object.name));
        }
        let differs = |what: ObjectName, said: &dyn std::fmt::Debug, found: &dyn std::fmt::Debug| {
            Err(format!("the manifest says {said:?} of {what}, and what was written is {found:?}"))
        };
        let images = [(ObjectKind::Memory, manifest.memory), (ObjectKind::Disk, Some(manifest.disk))];
        for (kind, said) in images {
            let found = staging.image(kind);
            if said != found {
                return differs(kind.data(), &said, &found);
            }
        }
        let found = staging.info(ObjectName::DeviceState);
        if manifest.device_state != found {
            return differs(ObjectName::DeviceState, &manifest.device_state, &found);
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(dir) = &self.remove
            && let Err(error) = fs::remove_dir_all(dir)
        {
            tracing::warn!(%error, dir = %dir.display(), "cannot remove an unpublished build");
        }
    }
}

/// Makes a private directory and locks it.
fn make_dir(dir: &Path) -> io::Result<File> {
    for _ in 0..ATTEMPTS {
        match DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {}
            // Of a process that had the same number and died, or of a build that this one is making.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && remove_leftover(dir)? => continue,
            Err(error) => return Err(error),
        }
        let lock = File::open(dir)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        // A cleaner may have been faster; then the lock is one of a directory without a name.
        let (ours, named) = (lock.metadata()?, fs::metadata(dir));
        if named.is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino())) {
            return Ok(lock);
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "it is removed again and again"))
}

/// Removes the directory of an unpublished build unless somebody is making it. Returns whether it is gone.
pub(crate) fn remove_leftover(dir: &Path) -> io::Result<bool> {
    let gone = |error: io::Error| if error.kind() == io::ErrorKind::NotFound { Ok(true) } else { Err(error) };
    let lock = match File::open(dir) {
        Ok(lock) => lock,
        Err(error) => return gone(error),
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    fs::remove_dir_all(dir).map(|()| true).or_else(gone)
}
