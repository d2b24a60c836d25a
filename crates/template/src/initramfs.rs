//! What the kernel starts from: guest-init, envd and the modules, uncompressed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cpio::{Archive, TooBig};
use crate::error::{At as _, TemplateError};
use crate::kernel::Kernel;
use crate::key::Key;
use crate::module_set::GROUPS;
use crate::publish;

/// Counted up when the same inputs would give another archive.
const RECIPE: u32 = 1;

/// The static programs that run inside the guest.
#[derive(Debug, Clone, Copy)]
pub struct GuestBinaries<'a> {
    /// The guest daemon.
    pub envd: &'a [u8],
    /// PID 1.
    pub init: &'a [u8],
}

impl GuestBinaries<'_> {
    pub(crate) fn key(&self) -> Key {
        Key::new("initramfs", RECIPE).with(self.init).with(self.envd)
    }
}

/// Makes the initramfs of `kernel`, beside it, unless it is there. Takes no longer than reading its parts.
pub(crate) fn ensure(
    kernel: &Kernel,
    guest: &GuestBinaries<'_>,
    staging: &Path,
) -> Result<PathBuf, TemplateError> {
    let mut key = guest.key();
    let mut modules = Vec::new();
    for (group, _) in GROUPS {
        let dir = kernel.dir.join(Kernel::MODULES).join(group);
        let mut files: Vec<PathBuf> = match fs::read_dir(&dir) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            // Every module of the group is built into the kernel.
            Err(_) => Vec::new(),
        };
        files.sort();
        for path in files {
            let content = fs::read(&path).at("read", &path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            key = key.with(group.as_bytes()).with(name.as_bytes()).with(&content);
            modules.push((group, name, content));
        }
    }
    let path = kernel.dir.join(format!("initramfs-{}.cpio", &key.finish()[..16]));
    if !path.is_file() {
        let archive = archive(guest, &modules).map_err(|TooBig| TemplateError::Kernel {
            package: kernel.record.package.clone(),
            why: "its modules do not fit into an initramfs".to_owned(),
        })?;
        let new = staging.join("initramfs.cpio");
        publish::write(&new, &archive)?;
        publish::publish(&new, &path)?;
    }
    Ok(path)
}

fn archive(guest: &GuestBinaries<'_>, modules: &[(&str, String, Vec<u8>)]) -> Result<Vec<u8>, TooBig> {
    let mut archive = Archive::default();
    archive.file("init", 0o755, guest.init)?;
    archive.file("envd", 0o755, guest.envd)?;
    archive.directory("modules")?;
    for (group, _) in GROUPS {
        archive.directory(&format!("modules/{group}"))?;
    }
    for (group, name, content) in modules {
        archive.file(&format!("modules/{group}/{name}"), 0o644, content)?;
    }
    archive.finish()
}
