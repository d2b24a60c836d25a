//! A stock kernel and a small guest to boot it with. Both are made once and kept outside the checkout, in
//! `$COLDFRAME_TEST_CACHE` or `/var/cache/coldframe-test`.
//!
//! Needs network the first time, and the Debian packages busybox-static, cpio and lz4.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// In the order in which they must be loaded.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_mmio",
    "drivers/block/virtio_blk",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/char/hw_random/virtio-rng",
];

/// Does what `test.run=` on the kernel command line says, `_` standing for a space, or stays idle.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in /modules/*.ko; do insmod "$module" || echo "cannot load $module"; done
for word in $(cat /proc/cmdline); do
    case "$word" in
        coldframe.probe) echo coldframe-probe-ok; reboot -f ;;
        test.run=*) run=$(echo "${word#test.run=}" | tr _ ' ') ;;
    esac
done
echo "guest is up with $(nproc) processors"
eval "$run"
while true; do sleep 1000; done
"#;

/// Files to boot.
pub(crate) struct Guest {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

impl Guest {
    /// Makes what is not there yet; other test programs wait meanwhile.
    pub(crate) fn get() -> Self {
        let cache =
            std::env::var_os("COLDFRAME_TEST_CACHE").unwrap_or_else(|| "/var/cache/coldframe-test".into());
        let dir = PathBuf::from(cache).join("vmm");
        fs::create_dir_all(&dir).unwrap();
        let lock = File::create(dir.join("lock")).unwrap();
        lock.lock().unwrap();
        let kernel = dir.join("vmlinux");
        if !kernel.exists() {
            fetch_kernel(&dir);
        }
        let initrd = dir.join("initramfs.cpio");
        // Always made anew, for it may have changed, and put in place whole, for it may be in use: and only if it did
        // change, for the accelerator's verdict goes by the file's time and another test may be reading it.
        make_initramfs(&dir, &initrd);
        Self { kernel, initrd }
    }
}

fn sh(dir: &Path, script: &str) -> String {
    let output =
        Command::new("sh").args(["-ec", script]).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn fetch_kernel(dir: &Path) {
    sh(
        dir,
        "rm -rf package *.deb
         apt-get -qq update
         real=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: \\(linux-image-.*\\)/\\1/p' | head -n1)
         apt-get -qq -o APT::Sandbox::User=root download \"$real\"
         dpkg-deb -x ./*.deb package && rm ./*.deb
         rm -rf modules && mv package/lib/modules/*/kernel modules && mv package/boot/vmlinuz-* vmlinuz && rm -r package",
    );
    let image = fs::read(dir.join("vmlinuz")).unwrap();
    // The payload is an ELF file in a legacy lz4 frame.
    let start =
        image.windows(4).position(|bytes| bytes == b"\x02\x21\x4c\x18").expect("an lz4 frame in the kernel");
    let elf = dir.join("vmlinux.new");
    let mut lz4 = Command::new("lz4")
        .args(["-dc", "-"])
        .stdin(Stdio::piped())
        .stdout(File::create(&elf).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .expect("lz4 (package lz4)");
    // It ends at the end of the frame and complains of what follows.
    let _ = lz4.stdin.take().unwrap().write_all(&image[start..]);
    let _ = lz4.wait();
    assert!(fs::read(&elf).unwrap().starts_with(b"\x7fELF"));
    fs::rename(elf, dir.join("vmlinux")).unwrap();
}

fn make_initramfs(dir: &Path, initrd: &Path) {
    let root = tempfile::tempdir_in(dir).unwrap();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("bin")).unwrap();
    fs::create_dir_all(at("modules")).unwrap();
    fs::copy("/bin/busybox", at("bin/busybox")).expect("busybox (package busybox-static)");
    fs::write(at("init"), INIT).unwrap();
    fs::set_permissions(at("init"), fs::Permissions::from_mode(0o755)).unwrap();
    for (number, module) in MODULES.iter().enumerate() {
        let name = module.rsplit('/').next().unwrap();
        fs::copy(
            dir.join("modules").join(module).with_extension("ko"),
            at(&format!("modules/{number:02}-{name}.ko")),
        )
        .unwrap_or_else(|error| panic!("{module}: {error}"));
    }
    let new = tempfile::NamedTempFile::new_in(dir).unwrap();
    sh(
        root.path(),
        &format!(
            "find . -exec touch -h -d @0 {{}} +; find . | sort | cpio --quiet --reproducible -o -H newc > {}",
            new.path().display()
        ),
    );
    if fs::read(new.path()).unwrap() == fs::read(initrd).unwrap_or_default() {
        return;
    }
    fs::set_permissions(new.path(), fs::Permissions::from_mode(0o644)).unwrap();
    new.persist(initrd).unwrap();
}
