//! The verdict of an earlier boot.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::AccelVerdict;
use crate::accel::Accel;
use crate::qemu::PROGRAM;

/// Everything that a verdict depends on. Another value of any of them makes it worthless.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    kernel: FileIdentity,
    initrd: FileIdentity,
    qemu: FileIdentity,
    processor: String,
    host_kernel: String,
}

/// A file by its name, size and time: reading 50 MB to hash them would take longer than everything else here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileIdentity {
    path: PathBuf,
    size: u64,
    modified: (i64, i64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Memo {
    key: Key,
    accel: Accel,
    reason: String,
    /// The host's start that the verdict is from.
    boot: String,
}

impl Key {
    /// What is not there has an identity too: it changes when the thing appears.
    pub(super) fn of_this_host(kernel: &Path, initrd: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: FileIdentity::of(kernel),
            initrd: FileIdentity::of(initrd),
            qemu: FileIdentity::of(&find_program()),
            processor: processor(&cpuinfo),
            host_kernel: read_line("/proc/sys/kernel/osrelease"),
        }
    }
}

impl FileIdentity {
    fn of(path: &Path) -> Self {
        let (size, modified) =
            fs::metadata(path).map_or((0, (0, 0)), |file| (file.size(), (file.mtime(), file.mtime_nsec())));
        Self { path: path.to_owned(), size, modified }
    }
}

/// What was decided under the same circumstances, if anything was. A verdict against KVM is good until the host's next
/// start: somebody may have switched virtualization on.
pub(super) fn recall(file: &Path, key: &Key) -> Option<AccelVerdict> {
    let text = fs::read(file).ok()?;
    // Damaged means forgotten: the next boot writes it anew.
    let memo: Memo = serde_json::from_slice(&text).ok()?;
    let good = memo.key == *key && (memo.accel == Accel::Kvm || memo.boot == boot_id());
    good.then(|| AccelVerdict { accel: memo.accel, reason: format!("{} (seen earlier)", memo.reason) })
}

/// Keeps a verdict, complete or not at all.
pub(super) fn remember(file: &Path, key: &Key, verdict: &AccelVerdict) -> io::Result<()> {
    let AccelVerdict { accel, reason } = verdict.clone();
    let memo = Memo { key: key.clone(), accel, reason, boot: boot_id() };
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}.new", std::process::id()));
    fs::write(&new, serde_json::to_vec_pretty(&memo)?)?;
    fs::rename(&new, file)
}

/// The features are in it: the same model may be offered with and without virtualization.
fn processor(cpuinfo: &str) -> String {
    let field = |name: &str| {
        let value = cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(": "));
        value.unwrap_or_default().to_owned()
    };
    let flags = field("flags");
    let virtualization: Vec<&str> =
        flags.split(' ').filter(|flag| matches!(*flag, "vmx" | "svm" | "hypervisor")).collect();
    format!("{} {}", field("model name"), virtualization.join(" "))
}

fn find_program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(PROGRAM)).find(|file| file.is_file()).unwrap_or_default()
}

fn boot_id() -> String {
    read_line("/proc/sys/kernel/random/boot_id")
}

fn read_line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(accel: Accel) -> AccelVerdict {
        AccelVerdict { accel, reason: "because".into() }
    }

    #[test]
    fn is_recalled_until_something_changes() {
        let directory = tempfile::tempdir().unwrap();
        let (kernel, initrd) = (directory.path().join("kernel"), directory.path().join("initrd"));
        let file = directory.path().join("cache/accel.json");
        fs::write(&kernel, "one").unwrap();
        let key = Key::of_this_host(&kernel, &initrd);
        assert!(!key.qemu.path.as_os_str().is_empty() && key.qemu.size > 0, "{key:?}");
        assert!(!key.host_kernel.is_empty() && !key.processor.trim().is_empty(), "{key:?}");

        assert_eq!(recall(&file, &key), None);
        for accel in [Accel::Kvm, Accel::Tcg] {
            remember(&file, &key, &verdict(accel)).unwrap();
            let recalled = recall(&file, &key).unwrap();
            assert_eq!((recalled.accel, &*recalled.reason), (accel, "because (seen earlier)"));
        }
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no partial file is left");

        fs::write(&kernel, "another").unwrap();
        assert_eq!(recall(&file, &Key::of_this_host(&kernel, &initrd)), None);
    }

    #[test]
    fn a_refusal_is_forgotten_when_the_host_restarts_and_damage_always() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("accel.json");
        let key = Key::of_this_host(Path::new("/k"), Path::new("/i"));
        for (accel, kept) in [(Accel::Kvm, true), (Accel::Tcg, false)] {
            remember(&file, &key, &verdict(accel)).unwrap();
            let text = fs::read_to_string(&file).unwrap().replace(&boot_id(), "an earlier start");
            fs::write(&file, text).unwrap();
            assert_eq!(recall(&file, &key).is_some(), kept);
        }
        for damage in ["", "{", "null", "[1]", "{\"key\": 3}"] {
            fs::write(&file, damage).unwrap();
            assert_eq!(recall(&file, &key), None);
        }
    }
}
