//! What must be true before the long steps begin.

use std::path::Path;

use crate::error::{At as _, TemplateError};

/// Debian unpacked, its image and the downloads, with room to spare.
const NEEDED_MIB: u64 = 2048;

/// Programs and the packages that have them. `dpkg-deb` and apt are on every Debian.
const TOOLS: [(&str, &str); 5] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
];

/// Checks all of it, the cheapest first.
pub(crate) fn check(state: &Path) -> Result<(), TemplateError> {
    if !rustix::process::geteuid().is_root() {
        return Err(TemplateError::NotRoot);
    }
    for (tool, package) in TOOLS {
        if !installed(tool) {
            return Err(TemplateError::MissingTool { tool, package });
        }
    }
    let found = rustix::fs::statvfs(state).at("look for free space in", state)?;
    let free_mib = found.f_bavail.saturating_mul(found.f_frsize) >> 20;
    if free_mib < NEEDED_MIB {
        return Err(TemplateError::NoSpace { path: state.to_owned(), needed_mib: NEEDED_MIB, free_mib });
    }
    Ok(())
}

fn installed(tool: &str) -> bool {
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|dir| Path::new(dir).join(tool).is_file())
}
