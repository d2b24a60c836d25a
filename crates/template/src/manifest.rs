//! A build on disk: what a sandbox starts from.

use std::fs;
use std::path::{Component, Path, PathBuf};

use model::{BuildId, Shape};
use serde::{Deserialize, Serialize};

use crate::dirs::Dirs;
use crate::error::{At as _, TemplateError};

/// Written into every manifest. A program reads the formats that it knows and says so of others.
const FORMAT: u32 = 1;
const FILE: &str = "manifest.json";
pub(crate) const ROOTFS: &str = "rootfs.ext4";
/// A manifest has some hundred bytes.
const MAX_MANIFEST: u64 = 64 << 10;

/// A build whose files are all there.
#[derive(Debug, Clone)]
pub struct Build {
    /// Its name, made from what went into it.
    pub id: BuildId,
    /// An uncompressed kernel (ELF).
    pub kernel: PathBuf,
    /// guest-init, envd and the modules (cpio).
    pub initrd: PathBuf,
    /// The root file system (ext4, as large as the shape's disk). Never written to.
    pub rootfs: PathBuf,
    /// The machine that it is meant for.
    pub shape: Shape,
    /// What `uname -r` prints in the guest.
    pub kernel_release: String,
    /// The Debian package of the kernel and its version: debug symbols must come from the same.
    pub kernel_package: (String, String),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) build: BuildId,
    pub(crate) shape: Shape,
    pub(crate) kernel: KernelPart,
    pub(crate) rootfs: FilePart,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct KernelPart {
    /// Below `kernels/`.
    pub(crate) dir: String,
    pub(crate) release: String,
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) vmlinux: FilePart,
    pub(crate) initramfs: FilePart,
}

/// A file by its name in the directory where it belongs, and its size in bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct FilePart {
    pub(crate) name: String,
    pub(crate) size: u64,
}

/// The only field that every format has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

impl FilePart {
    /// Describes a file that was just made.
    pub(crate) fn of(path: &Path) -> Result<Self, TemplateError> {
        let size = fs::metadata(path).at("look at", path)?.len();
        Ok(Self { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), size })
    }
}

impl Manifest {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(&Written { format: FORMAT, manifest: self }).unwrap_or_default()
    }

    /// The error says what is wrong, without the file's name.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let Versioned { format } =
            serde_json::from_slice(bytes).map_err(|error| format!("it has no format number: {error}"))?;
        if format != FORMAT {
            return Err(format!("it has format {format}, and this program reads format {FORMAT}"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let KernelPart { dir, vmlinux, initramfs, .. } = &manifest.kernel;
        for name in [dir, &vmlinux.name, &initramfs.name, &manifest.rootfs.name] {
            if !is_plain(name) {
                return Err(format!("{name:?} is no plain file name"));
            }
        }
        Ok(manifest)
    }
}

/// Whether a name stays in the directory that it is joined to.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
}

/// Finds a build and checks that its files are there, as large as they were.
///
/// # Errors
/// When there is no such build, its manifest cannot be read, or a file is missing or has another size.
pub fn load(dirs: &Dirs, id: &BuildId) -> Result<Build, TemplateError> {
    let dir = dirs.build(id);
    let path = dir.join(FILE);
    let size = match fs::metadata(&path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(TemplateError::NoBuild(id.clone()));
        }
        Err(error) => return Err(error).at("look at", &path),
    };
    if size > MAX_MANIFEST {
        return Err(TemplateError::damaged(&path, format!("{size} bytes, more than {MAX_MANIFEST}")));
    }
    let bytes = fs::read(&path).at("read", &path)?;
    let manifest = Manifest::parse(&bytes).map_err(|why| TemplateError::damaged(&path, why))?;
    if manifest.build != *id {
        return Err(TemplateError::damaged(&path, format!("it is of build {}", manifest.build)));
    }
    let Manifest { shape, kernel, rootfs, .. } = manifest;
    let kernel_dir = dirs.kernels().join(&kernel.dir);
    Ok(Build {
        id: id.clone(),
        kernel: whole(&kernel_dir, &kernel.vmlinux)?,
        initrd: whole(&kernel_dir, &kernel.initramfs)?,
        rootfs: whole(&dir, &rootfs)?,
        shape,
        kernel_release: kernel.release,
        kernel_package: (kernel.package, kernel.version),
    })
}

fn whole(dir: &Path, part: &FilePart) -> Result<PathBuf, TemplateError> {
    let path = dir.join(&part.name);
    match fs::metadata(&path) {
        Ok(meta) if meta.is_file() && meta.len() == part.size => Ok(path),
        Ok(meta) => {
            Err(TemplateError::damaged(&path, format!("{} bytes, expected {}", meta.len(), part.size)))
        }
        Err(error) => Err(TemplateError::damaged(&path, error.to_string())),
    }
}

/// Writes the manifest into the directory of a build that is being made.
pub(crate) fn write(dir: &Path, manifest: &Manifest) -> Result<(), TemplateError> {
    crate::publish::write(&dir.join(FILE), &manifest.to_bytes())
}

#[cfg(test)]
mod tests {
    use model::{MiB, VcpuCount};

    use super::*;

    fn manifest() -> Manifest {
        let part = |name: &str, size| FilePart { name: name.to_owned(), size };
        Manifest {
            build: "abc123".parse().unwrap(),
            shape: Shape { vcpus: VcpuCount(2), memory: MiB(512), disk: MiB(8192) },
            kernel: KernelPart {
                dir: "6.1-cloud".to_owned(),
                release: "6.1".to_owned(),
                package: "linux-image-6.1".to_owned(),
                version: "6.1.1-1".to_owned(),
                vmlinux: part("vmlinux", 3),
                initramfs: part("initramfs-1.cpio", 4),
            },
            rootfs: part(ROOTFS, 5),
        }
    }

    /// A state directory with this build in it.
    fn state(manifest: &Manifest) -> (tempfile::TempDir, Dirs) {
        let root = tempfile::tempdir().unwrap();
        let dirs = Dirs::new(root.path());
        let (build, kernel) = (dirs.build(&manifest.build), dirs.kernels().join("6.1-cloud"));
        fs::create_dir_all(&build).unwrap();
        fs::create_dir_all(&kernel).unwrap();
        fs::write(kernel.join("vmlinux"), "abc").unwrap();
        fs::write(kernel.join("initramfs-1.cpio"), "abcd").unwrap();
        fs::write(build.join(ROOTFS), "abcde").unwrap();
        write(&build, manifest).unwrap();
        (root, dirs)
    }

    #[test]
    fn a_build_is_found_with_its_files() {
        let (_root, dirs) = state(&manifest());
        let build = load(&dirs, &manifest().build).unwrap();
        assert_eq!(fs::read(build.kernel).unwrap(), b"abc");
        assert_eq!(build.shape, manifest().shape);
        assert!(matches!(load(&dirs, &"other".parse().unwrap()), Err(TemplateError::NoBuild(_))));
    }

    /// The bytes of format 1 as they were first written: every later version of this program must read them.
    const FORMAT_1: &str = r#"{"format":1,"build":"abc123","shape":{"vcpus":2,"memory":512,"disk":8192},
        "kernel":{"dir":"6.1-cloud","release":"6.1","package":"linux-image-6.1","version":"6.1.1-1",
        "vmlinux":{"name":"vmlinux","size":3},"initramfs":{"name":"initramfs-1.cpio","size":4}},
        "rootfs":{"name":"rootfs.ext4","size":5}}"#;

    #[test]
    fn every_format_ever_written_is_read() {
        assert_eq!(Manifest::parse(FORMAT_1.as_bytes()).unwrap(), manifest());
        assert_eq!(Manifest::parse(&manifest().to_bytes()).unwrap(), manifest());
    }

    #[test]
    fn a_later_format_is_named() {
        let error = Manifest::parse(br#"{"format":2,"new":"field"}"#).unwrap_err();
        assert!(error.contains("format 2"), "{error}");
    }

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for bad in ["../x", "/etc/passwd", "a/b", "", ".", "..", "a/"] {
            let text = FORMAT_1.replace("rootfs.ext4", bad);
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_missing_cut_or_another_is_damage() {
        let (_root, dirs) = state(&manifest());
        let build = dirs.build(&manifest().build);
        let damaged = |id: &BuildId| matches!(load(&dirs, id), Err(TemplateError::Damaged { .. }));
        fs::write(build.join(ROOTFS), "abcd").unwrap();
        assert!(damaged(&manifest().build));
        fs::remove_file(build.join(ROOTFS)).unwrap();
        assert!(damaged(&manifest().build));
        fs::write(build.join(FILE), "{").unwrap();
        assert!(damaged(&manifest().build));
        fs::write(build.join(FILE), vec![b' '; 70_000]).unwrap();
        assert!(damaged(&manifest().build));
        let other: BuildId = "other".parse().unwrap();
        fs::rename(&build, dirs.build(&other)).unwrap();
        write(&dirs.build(&other), &manifest()).unwrap();
        assert!(damaged(&other));
    }
}
