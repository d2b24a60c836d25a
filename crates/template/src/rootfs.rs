//! The root file system of the base template: a small Debian.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use model::MiB;

use crate::dirs::Dirs;
use crate::error::{At as _, TemplateError};
use crate::key::Key;
use crate::progress::Progress;
use crate::tool::{self, command};
use crate::{apt, debian_sources, publish};

/// What the base template promises, on top of Debian's smallest variant.
pub(crate) const PACKAGES: [&str; 14] = [
    "bash",
    "ca-certificates",
    "curl",
    "git",
    "iproute2",
    "ncurses-bin",
    "nodejs",
    "procps",
    "python-is-python3",
    "python3",
    "python3-pip",
    "python3-venv",
    "sudo",
    "util-linux",
];

/// Documentation and translations of messages, which nobody reads in a sandbox: a fifth of the disk. Licences stay.
const LEFT_OUT: [&str; 6] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*/LC_MESSAGES/*",
    "path-exclude=/usr/share/lintian/*",
];

/// The account that commands run as unless a client asks for another.
const USER: &str = "user";
const USER_ID: &str = "1000";

const IMAGE_PREFIX: &str = "rootfs-";

/// Counted up when the same packages would give another file system.
const RECIPE: u32 = 2;

pub(crate) fn key(suite: &str, disk: MiB) -> Key {
    let inputs = PACKAGES.iter().chain(&LEFT_OUT).map(|input| input.as_bytes());
    let key = Key::new("rootfs", RECIPE).with(suite.as_bytes()).with(&disk.0.to_le_bytes());
    inputs.fold(key, Key::with)
}

/// Makes the image unless it is there. The caller holds the lock.
pub(crate) fn ensure(
    dirs: &Dirs,
    suite: &str,
    disk: MiB,
    progress: &dyn Progress,
) -> Result<PathBuf, TemplateError> {
    let image = dirs.cache().join(format!("{IMAGE_PREFIX}{}.ext4", key(suite, disk).finish()));
    if fs::metadata(&image).is_ok_and(|meta| meta.len() == disk.bytes()) {
        return Ok(image);
    }
    let staging = publish::staging(dirs)?;
    // Readable for all: it becomes the mode of `/` in the sandbox.
    fs::set_permissions(staging.path(), fs::Permissions::from_mode(0o755))
        .at("set the mode of", staging.path())?;
    let root = staging.path().join("root");
    progress.step("installing Debian");
    install(&root, suite, staging.path(), progress)?;
    progress.step("setting Debian up");
    set_up(&root)?;
    progress.step("making the disk image");
    let new = staging.path().join("rootfs.ext4");
    disk::ext4::make_image(&root, &new, disk.bytes())?;
    publish::publish(&new, &image)?;
    progress.step("cleaning up");
    remove_others(&dirs.cache(), &image)?;
    staging.close().at("remove what is left in", &dirs.cache())?;
    Ok(image)
}

/// Removes images of earlier recipes from the cache. A build that uses one has a link of its own.
fn remove_others(cache: &Path, current: &Path) -> Result<(), TemplateError> {
    for entry in fs::read_dir(cache).at("list", cache)? {
        let path = entry.at("list", cache)?.path();
        let is_image = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(IMAGE_PREFIX));
        if is_image && path != current {
            remove(&path)?;
        }
    }
    Ok(())
}

fn install(root: &Path, suite: &str, staging: &Path, progress: &dyn Progress) -> Result<(), TemplateError> {
    let mut mmdebstrap = command("mmdebstrap");
    mmdebstrap.args(["--mode=root", "--variant=minbase", "--format=directory"]);
    mmdebstrap.arg(format!("--include={}", PACKAGES.join(",")));
    mmdebstrap.args(LEFT_OUT.iter().map(|line| format!("--dpkgopt={line}")));
    mmdebstrap.args(apt::connection_settings().iter().map(|setting| format!("--aptopt={setting}")));
    mmdebstrap.arg(suite).arg(root);
    // Without sources of the release on this machine, mmdebstrap uses Debian's public ones.
    let sources = debian_sources::of_this_machine(suite);
    if !sources.is_empty() {
        let list = staging.join("debian.list");
        publish::write(&list, (sources.join("\n") + "\n").as_bytes())?;
        mmdebstrap.arg(list);
    }
    let report = |line: &str| {
        if let Some(step) = line.strip_prefix("I: ") {
            progress.detail(step);
        }
    };
    tool::watch(&mut mmdebstrap, report)
        .map_err(|failure| failure.into_network_error("installing Debian with mmdebstrap"))
}

/// Makes the user, and removes what came from this machine.
fn set_up(root: &Path) -> Result<(), TemplateError> {
    let useradd =
        ["useradd", "--create-home", "--uid", USER_ID, "--user-group", "--shell", "/bin/bash", USER];
    tool::output(command("chroot").arg(root).args(useradd))
        .map_err(|failure| failure.into_error("adding the user"))?;
    write(root, "etc/sudoers.d/coldframe", 0o440, &format!("{USER} ALL=(ALL:ALL) NOPASSWD:ALL\n"))?;
    write(root, "etc/hosts", 0o644, "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")?;
    // The whole machine is one user's environment: pip may install into it, as it may in a container.
    write(
        root,
        "etc/pip.conf",
        0o644,
        "[global]\nbreak-system-packages = true\nroot-user-action = ignore\n",
    )?;
    // Empty, so that whoever wants one makes one: two sandboxes must not be the same machine.
    write(root, "etc/machine-id", 0o444, "")?;
    // mmdebstrap copied the first two from here, and the third holds this machine's way to its sources.
    for file in ["etc/resolv.conf", "etc/hostname", "etc/apt/apt.conf.d/99mmdebstrap"] {
        remove(&root.join(file))?;
    }
    for dir in ["var/log", "var/cache/apt", "var/cache/debconf", "var/lib/apt/lists"] {
        remove_files_below(&root.join(dir))?;
    }
    Ok(())
}

fn write(root: &Path, path: &str, mode: u32, content: &str) -> Result<(), TemplateError> {
    let path = root.join(path);
    fs::write(&path, content).at("write", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).at("set the mode of", &path)
}

fn remove(path: &Path) -> Result<(), TemplateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).at("remove", path),
        _ => Ok(()),
    }
}

fn remove_files_below(dir: &Path) -> Result<(), TemplateError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries {
        let entry = entry.at("list", dir)?;
        if entry.file_type().at("look at", &entry.path())?.is_dir() {
            remove_files_below(&entry.path())?;
        } else {
            remove(&entry.path())?;
        }
    }
    Ok(())
}
