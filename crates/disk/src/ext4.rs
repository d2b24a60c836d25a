//! Makes ext4 images from directories with `mke2fs`, without mounting anything.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is kept of the tool's complaints, in bytes.
const MAX_COMPLAINT: usize = 2048;

/// The smallest image, in bytes: below it mke2fs leaves the journal out.
const MIN_SIZE: u64 = 16 << 20;

/// All features by name, so that an image does not depend on the host's `mke2fs.conf`. They are those of Debian 12, which
/// every kernel since 4.5 can mount.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                        large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// The identity of every image, and the seed of its directory hashes: equal input gives equal bytes.
const UUID: &str = "c01df4a3-e000-4000-8000-000000000000";

/// Why an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Ext4Error {
    /// The size makes no sense.
    #[error(
        "an ext4 image of {0} bytes is not possible: it needs a multiple of 4096 and at least {MIN_SIZE}"
    )]
    Size(u64),
    /// The image file or the source directory cannot be used.
    #[error("cannot make an ext4 image of {}: {source}", path.display())]
    Io {
        /// The file or directory that failed.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// mke2fs cannot be started.
    #[error("cannot run mke2fs: {0}; it is in the Debian package e2fsprogs")]
    NoTool(io::Error),
    /// mke2fs ran and failed: usually the tree does not fit.
    #[error("mke2fs could not make an image of {size} bytes from {}: {complaint}", source_dir.display())]
    Tool {
        /// The directory the image was to hold.
        source_dir: PathBuf,
        /// The size asked for, in bytes.
        size: u64,
        /// What it said, or how it ended.
        complaint: String,
    },
}

/// Makes `image`, a sparse ext4 file system of `size` bytes (a multiple of 4096), with what is in the directory
/// `source_dir`: owners, modes, links, devices and extended attributes included, so run it as root.
///
/// Nothing is reserved for root, and all is initialised: a guest that mounts the image has no work to finish in the
/// background, which would copy blocks in every sandbox. `image` appears complete or not at all; an existing one is
/// replaced. Blocks the caller for about a second per gigabyte.
///
/// # Errors
/// When the size is not possible, a file cannot be used, or mke2fs fails; its own words are in the error.
pub fn make_image(source_dir: &Path, image: &Path, size: u64) -> Result<(), Ext4Error> {
    if size < MIN_SIZE || !size.is_multiple_of(4096) {
        return Err(Ext4Error::Size(size));
    }
    if !fs::metadata(source_dir).map_err(|source| io_error(source_dir, source))?.is_dir() {
        return Err(io_error(source_dir, io::ErrorKind::NotADirectory.into()));
    }
    let mut partial = image.as_os_str().to_owned();
    partial.push(format!(".{}.partial", std::process::id()));
    let partial = PathBuf::from(partial);
    let made = fill(source_dir, &partial, size)
        .and_then(|()| fs::rename(&partial, image).map_err(|source| io_error(image, source)));
    if made.is_err() {
        // The error to report is the first one; what cannot be removed is named like what it is.
        let _ = fs::remove_file(&partial);
    }
    made
}

fn fill(source_dir: &Path, image: &Path, size: u64) -> Result<(), Ext4Error> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(image)
        .and_then(|file| file.set_len(size).map(|()| file))
        .map_err(|source| io_error(image, source))?;

    let output = Command::new("mke2fs")
        .args(["-q", "-F", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-O", FEATURES])
        .args(["-U", UUID, "-E"])
        // The file is all hole: the journal and the inode tables are zero already, and are marked as such.
        .arg(format!("hash_seed={UUID},assume_storage_prezeroed=1,nodiscard,root_owner=0:0"))
        .arg("-d")
        .arg(source_dir)
        .arg(image)
        .env("LC_ALL", "C")
        .env("MKE2FS_CONFIG", "/dev/null")
        // The time that is written as the file system's creation; mke2fs takes the present for 0.
        .env("E2FSPROGS_FAKE_TIME", "1")
        // sbin is not on every user's path.
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(Ext4Error::NoTool)?;
    if !output.status.success() {
        return Err(Ext4Error::Tool {
            source_dir: source_dir.to_owned(),
            size,
            complaint: complaint(&output.stderr).unwrap_or_else(|| output.status.to_string()),
        });
    }
    file.sync_all().map_err(|source| io_error(image, source))
}

fn io_error(path: &Path, source: io::Error) -> Ext4Error {
    Ext4Error::Io { path: path.to_owned(), source }
}

/// The end of what a tool wrote, on one line; `None` if it wrote nothing.
fn complaint(stderr: &[u8]) -> Option<String> {
    let end = &stderr[stderr.len().saturating_sub(MAX_COMPLAINT)..];
    let text = String::from_utf8_lossy(end);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}
