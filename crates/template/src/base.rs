//! The base template: made once, found again in no time.

use std::fs;
use std::path::{Path, PathBuf};

use model::{BuildId, MiB, Shape, VcpuCount};
use serde::{Deserialize, Serialize};

use crate::dirs::Dirs;
use crate::error::{At as _, TemplateError};
use crate::initramfs::{self, GuestBinaries};
use crate::kernel::{self, Kernel};
use crate::key::Key;
use crate::manifest::{self, Build, FilePart, KernelPart, Manifest, load};
use crate::progress::Progress;
use crate::{precondition, publish, rootfs};

/// Counted up when the same parts would be put together differently.
const RECIPE: u32 = 1;
const MAX_POINTER: u64 = 4096;

/// What the base template should be.
#[derive(Debug, Clone)]
pub struct BaseOptions {
    /// The machine that sandboxes get unless they ask for another.
    pub shape: Shape,
    /// The release of Debian.
    pub suite: String,
}

impl Default for BaseOptions {
    fn default() -> Self {
        // One processor: with two, about one boot in 150 hung on a busy host without hardware virtualization, after the
        // kernel had started the second. That one processor avoids it is not proven.
        let shape = Shape { vcpus: VcpuCount(1), memory: MiB(512), disk: MiB(8192) };
        Self { shape, suite: "bookworm".to_owned() }
    }
}

/// Names the current base build, and what it was asked to be.
#[derive(Serialize, Deserialize)]
struct Current {
    inputs: String,
    build: BuildId,
}

/// The base template, made when it is missing or when one of its inputs changed: the guest's programs, the packages, the
/// shape. Takes milliseconds when it is there. Of several callers, in whatever processes, one makes it and the others wait.
///
/// # Errors
/// When it has to be made and that is not possible; every message says what to do.
pub fn ensure_base(
    dirs: &Dirs,
    guest: &GuestBinaries<'_>,
    options: &BaseOptions,
    progress: &dyn Progress,
) -> Result<Build, TemplateError> {
    let inputs = inputs(guest, options);
    if let Some(build) = current(dirs, &inputs) {
        return Ok(build);
    }
    publish::public_dir(dirs.root())?;
    precondition::check(dirs.root())?;
    for dir in [dirs.cache(), dirs.builds(), dirs.kernels()] {
        publish::public_dir(&dir)?;
    }
    let _lock = publish::lock(dirs)?;
    if let Some(build) = current(dirs, &inputs) {
        return Ok(build);
    }
    publish::remove_leftovers(dirs)?;
    let id = make(dirs, guest, options, &inputs, progress)?;
    let pointer = serde_json::to_vec(&Current { inputs, build: id.clone() }).unwrap_or_default();
    publish::replace(dirs, &dirs.current_base(), &pointer)?;
    progress.finish();
    load(dirs, &id)
}

/// A kernel and its initramfs, as [`ensure_base`] makes them: the one of this name among those that are there, or the one in
/// use, which is fetched when there is none.
///
/// # Errors
/// When there is none of that name, or it cannot be made; every message says what to do.
pub fn ensure_boot_files(
    dirs: &Dirs,
    guest: &GuestBinaries<'_>,
    named: Option<&str>,
    progress: &dyn Progress,
) -> Result<(PathBuf, PathBuf), TemplateError> {
    publish::public_dir(dirs.root())?;
    for dir in [dirs.cache(), dirs.kernels()] {
        publish::public_dir(&dir)?;
    }
    let _lock = publish::lock(dirs)?;
    let kernel = match named {
        None => kernel::ensure(dirs, progress)?,
        Some(name) => {
            let dir = dirs.kernels().join(name);
            // One step down, and not elsewhere.
            let is_name = dir.file_name().is_some_and(|file| file == name);
            is_name.then(|| Kernel::load(dir.clone())).flatten().ok_or_else(|| {
                let why =
                    format!("it is no kernel; those that are there are in {}", dirs.kernels().display());
                TemplateError::damaged(&dir, why)
            })?
        }
    };
    let staging = publish::staging(dirs)?;
    progress.step("making the initramfs");
    let initramfs = initramfs::ensure(&kernel, guest, staging.path())?;
    progress.finish();
    Ok((kernel.dir.join(Kernel::VMLINUX), initramfs))
}

/// A hash of everything that a change of must lead to a new build.
fn inputs(guest: &GuestBinaries<'_>, options: &BaseOptions) -> String {
    let BaseOptions { shape, suite } = options;
    Key::new("base", RECIPE)
        .with(kernel::key().finish().as_bytes())
        .with(guest.key().finish().as_bytes())
        .with(rootfs::key(suite, shape.disk).finish().as_bytes())
        .with(&[shape.vcpus.0])
        .with(&shape.memory.0.to_le_bytes())
        .finish()
}

fn current(dirs: &Dirs, inputs: &str) -> Option<Build> {
    let current = pointer(dirs)?;
    // One that is damaged is made again: its inputs are still known.
    (current.inputs == inputs).then(|| load(dirs, &current.build).ok())?
}

/// The base template that was made last, if it is whole, whatever it was made from.
#[must_use]
pub fn existing_base(dirs: &Dirs) -> Option<Build> {
    load(dirs, &pointer(dirs)?.build).ok()
}

fn pointer(dirs: &Dirs) -> Option<Current> {
    let path = dirs.current_base();
    if fs::metadata(&path).ok()?.len() > MAX_POINTER {
        return None;
    }
    serde_json::from_slice(&fs::read(&path).ok()?).ok()
}

fn make(
    dirs: &Dirs,
    guest: &GuestBinaries<'_>,
    options: &BaseOptions,
    inputs: &str,
    progress: &dyn Progress,
) -> Result<BuildId, TemplateError> {
    let BaseOptions { shape, suite } = options;
    let kernel = kernel::ensure(dirs, progress)?;
    let staging = publish::staging(dirs)?;
    progress.step("making the initramfs");
    let initramfs = initramfs::ensure(&kernel, guest, staging.path())?;
    let image = rootfs::ensure(dirs, suite, shape.disk, progress)?;

    // The kernel's version is not among the inputs, but two builds with different kernels are two builds.
    let kernel_dir = kernel.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let id = Key::new("build", RECIPE).with(inputs.as_bytes()).with(kernel_dir.as_bytes()).finish();
    let id: BuildId = id
        .parse()
        .map_err(|error: model::ParseIdError| TemplateError::damaged(dirs.root(), error.to_string()))?;
    let new = staging.path().join("build");
    publish::public_dir(&new)?;
    // Builds share an image that did not change between them.
    fs::hard_link(&image, new.join(manifest::ROOTFS)).at("link", &image)?;
    let manifest = Manifest {
        build: id.clone(),
        shape: *shape,
        kernel: part_of(&kernel, kernel_dir, &initramfs)?,
        rootfs: FilePart::of(&new.join(manifest::ROOTFS))?,
    };
    manifest::write(&new, &manifest)?;
    publish::publish(&new, &dirs.build(&id))?;
    Ok(id)
}

fn part_of(kernel: &Kernel, dir: String, initramfs: &Path) -> Result<KernelPart, TemplateError> {
    Ok(KernelPart {
        dir,
        release: kernel.record.release.clone(),
        package: kernel.record.package.clone(),
        version: kernel.record.version.clone(),
        vmlinux: FilePart::of(&kernel.dir.join(Kernel::VMLINUX))?,
        initramfs: FilePart::of(initramfs)?,
    })
}
