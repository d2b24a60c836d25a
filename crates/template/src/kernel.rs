//! Debian's cloud kernel, from its package.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::apt::{self, Package};
use crate::dirs::Dirs;
use crate::error::{At as _, TemplateError};
use crate::key::Key;
use crate::progress::Progress;
use crate::publish;
use crate::tool::{self, command};
use crate::{module_set, vmlinux};

/// Depends on the newest kernel made for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Counted up when the same package would be turned into something else.
const RECIPE: u32 = 1;
const MAX_RECORD: u64 = 64 << 10;

/// A kernel on disk.
pub(crate) struct Kernel {
    pub(crate) dir: PathBuf,
    pub(crate) record: Record,
}

/// What is known of a kernel, kept beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// What `uname -r` prints.
    pub(crate) release: String,
    /// The Debian package, whose debug symbols fit.
    pub(crate) package: String,
    pub(crate) version: String,
    /// Size of `vmlinux` in bytes.
    pub(crate) vmlinux_size: u64,
}

/// Names the kernel in use. The package's version is not part of the key: a new one in the archive is not fetched by
/// itself, so that sandboxes made today and tomorrow from one template are alike.
#[derive(Serialize, Deserialize)]
struct Current {
    key: String,
    dir: String,
}

pub(crate) fn key() -> Key {
    Key::new("kernel", RECIPE).with(META_PACKAGE.as_bytes())
}

impl Kernel {
    pub(crate) const VMLINUX: &str = "vmlinux";
    pub(crate) const MODULES: &str = "modules";
    const RECORD: &str = "kernel.json";

    pub(crate) fn load(dir: PathBuf) -> Option<Self> {
        let record: Record = read_json(&dir.join(Self::RECORD))?;
        let size = fs::metadata(dir.join(Self::VMLINUX)).ok()?.len();
        (size == record.vmlinux_size).then_some(Self { dir, record })
    }
}

/// The kernel in use, fetched when there is none. The caller holds the lock.
pub(crate) fn ensure(dirs: &Dirs, progress: &dyn Progress) -> Result<Kernel, TemplateError> {
    let pointer = dirs.kernels().join("current.json");
    let current = read_json::<Current>(&pointer).filter(|current| current.key == key().finish());
    if let Some(kernel) = current.and_then(|current| Kernel::load(dirs.kernels().join(current.dir))) {
        return Ok(kernel);
    }
    publish::public_dir(&dirs.kernels())?;
    let kernel = fetch(dirs, progress)?;
    let dir = kernel.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let current = serde_json::to_vec(&Current { key: key().finish(), dir }).unwrap_or_default();
    publish::replace(dirs, &pointer, &current)?;
    Ok(kernel)
}

fn fetch(dirs: &Dirs, progress: &dyn Progress) -> Result<Kernel, TemplateError> {
    progress.step("finding the kernel");
    let package = apt::resolve(META_PACKAGE, progress)?;
    progress.step("downloading the kernel");
    progress.detail(&package.name);
    let staging = publish::staging(dirs)?;
    let deb = apt::download(&package, staging.path(), progress)?;
    progress.step("unpacking the kernel");
    let unpacked = staging.path().join("package");
    tool::output(command("dpkg-deb").arg("--extract").args([&deb, &unpacked]))
        .map_err(|failure| failure.into_error(format!("unpacking {}", package.name)))?;
    let bad = |why: String| TemplateError::Kernel { package: package.name.clone(), why };
    let release = release(&unpacked).ok_or_else(|| bad("it has no modules".to_owned()))?;

    let made = staging.path().join("kernel");
    publish::public_dir(&made)?;
    let image = unpacked.join(format!("boot/vmlinuz-{release}"));
    let vmlinux = vmlinux::extract(&fs::read(&image).at("read", &image)?).map_err(bad)?;
    publish::write(&made.join(Kernel::VMLINUX), &vmlinux)?;
    for chosen in module_set::choose(&modules_dir(&unpacked).join(&release)).map_err(bad)? {
        let group = made.join(Kernel::MODULES).join(chosen.group);
        fs::create_dir_all(&group).at("make", &group)?;
        publish::write(&group.join(chosen.file_name), &chosen.content)?;
    }
    let record = record(&package, release, vmlinux.len() as u64);
    publish::write(&made.join(Kernel::RECORD), &serde_json::to_vec_pretty(&record).unwrap_or_default())?;

    let dir = dirs.kernels().join(directory_name(&record));
    publish::publish(&made, &dir)?;
    Ok(Kernel { dir, record })
}

fn record(package: &Package, release: String, vmlinux_size: u64) -> Record {
    Record { release, package: package.name.clone(), version: package.version.clone(), vmlinux_size }
}

/// Debian keeps the release's name through security updates, so it needs the version's hash beside it.
fn directory_name(record: &Record) -> String {
    let key = key().with(record.version.as_bytes()).finish();
    format!("{}-{}", record.release, &key[..8])
}

fn modules_dir(unpacked: &Path) -> PathBuf {
    // A newer Debian has it in /usr.
    let dirs = [unpacked.join("lib/modules"), unpacked.join("usr/lib/modules")];
    let [old, new] = dirs;
    if old.is_dir() { old } else { new }
}

fn release(unpacked: &Path) -> Option<String> {
    let mut names = fs::read_dir(modules_dir(unpacked)).ok()?.flatten().map(|entry| entry.file_name());
    names.next()?.into_string().ok()
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    if fs::metadata(path).ok()?.len() > MAX_RECORD {
        return None;
    }
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
