//! The debug symbols of a kernel, from the Debian package that is made together with it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::apt::{self, Package};
use crate::dirs::Dirs;
use crate::error::TemplateError;
use crate::kernel::Kernel;
use crate::progress::Progress;
use crate::publish;
use crate::tool::{ToolFailure, command};

/// The kernel with its debug symbols, beside the kernel itself.
const FILE: &str = "vmlinux.debug";

/// The debug symbols of `kernel`, the path of one that was made here, if they were fetched before.
#[must_use]
pub fn existing_symbols(kernel: &Path) -> Option<PathBuf> {
    let path = kernel.with_file_name(FILE);
    path.is_file().then_some(path)
}

/// Has `fill` write the debug symbols of `kernel` to a file, and keeps them beside it: `None` when it has none. Of several
/// callers one does it and the others wait.
///
/// # Errors
/// What `fill` says, or why they cannot be kept; nothing is then.
pub fn keep_symbols(
    dirs: &Dirs,
    kernel: &Path,
    fill: impl FnOnce(&mut File) -> Result<bool, String>,
) -> Result<Option<PathBuf>, String> {
    let text = |error: TemplateError| error.to_string();
    let _lock = publish::lock(dirs).map_err(text)?;
    if let Some(path) = existing_symbols(kernel) {
        return Ok(Some(path));
    }
    let staging = publish::staging(dirs).map_err(text)?;
    let (made, path) = (staging.path().join(FILE), kernel.with_file_name(FILE));
    let mut file = File::create(&made).map_err(|error| format!("making {}: {error}", made.display()))?;
    if !fill(&mut file)? {
        return Ok(None);
    }
    publish::publish(&made, &path).map_err(text)?;
    Ok(Some(path))
}

/// Fetches the debug symbols of `kernel`, the path of one that was made here: some 280 MB, which become 590. Of several
/// callers one does it and the others wait. Whether they fit, their build id says.
///
/// # Errors
/// When nobody knows from which package the kernel is, or the one with its symbols cannot be had.
pub fn fetch_symbols(dirs: &Dirs, kernel: &Path, progress: &dyn Progress) -> Result<PathBuf, TemplateError> {
    let dir = kernel.parent().unwrap_or(kernel);
    let known = Kernel::load(dir.to_owned())
        .ok_or_else(|| TemplateError::damaged(dir, "it does not say from which package it is".to_owned()))?;
    let _lock = publish::lock(dirs)?;
    if let Some(path) = existing_symbols(kernel) {
        return Ok(path);
    }
    let package = Package { name: format!("{}-dbg", known.record.package), version: known.record.version };
    progress.step("downloading the kernel's debug symbols");
    progress.detail(&package.name);
    let staging = publish::staging(dirs)?;
    let deb = apt::download(&package, staging.path(), progress)?;
    progress.step("unpacking the kernel's debug symbols");
    let (made, path) = (staging.path().join(FILE), kernel.with_file_name(FILE));
    let member = format!("./usr/lib/debug/boot/vmlinux-{}", known.record.release);
    unpack(&deb, &member, &made)
        .map_err(|failure| failure.into_error(format!("unpacking {member} of {}", package.name)))?;
    publish::publish(&made, &path)?;
    progress.finish();
    Ok(path)
}

/// One file of a package: all of it would take three times as much.
fn unpack(deb: &Path, member: &str, to: &Path) -> Result<(), ToolFailure> {
    let failed = |error: io::Error| ToolFailure { how: error.to_string(), output: String::new() };
    let file = File::create(to).map_err(failed)?;
    let mut package = command("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let archive = package.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let unpacked = command("tar")
        .args(["--extract", "--to-stdout", "--occurrence=1", member])
        .stdin(archive)
        .stdout(file)
        .stderr(Stdio::piped())
        .output();
    // It has more to say than tar wants to hear.
    let _ = package.kill();
    let _ = package.wait();
    let unpacked = unpacked.map_err(failed)?;
    if unpacked.status.success() && fs::metadata(to).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let output = String::from_utf8_lossy(&unpacked.stderr).into_owned();
    Err(ToolFailure { how: unpacked.status.to_string(), output })
}
