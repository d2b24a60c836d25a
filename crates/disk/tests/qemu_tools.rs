//! The NBD server and the overlay against QEMU's own NBD client (Debian package qemu-utils).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use disk::nbd::{Closed, serve};
use disk::{BlockDevice, Overlay, RawImage};

/// Runs a tool once against `disk` and returns what it printed.
fn with_tool(directory: &Path, disk: &Arc<Overlay>, program: &str, arguments: &[&str]) -> String {
    let socket = directory.join("nbd.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let device: Arc<dyn BlockDevice> = disk.clone();
    let server = thread::spawn(move || serve(listener.accept().unwrap().0, device));
    let url = format!("nbd:unix:{}", socket.display());
    let arguments: Vec<&str> = arguments.iter().map(|a| if *a == "DISK" { &*url } else { *a }).collect();
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program} (package qemu-utils): {e}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(server.join().unwrap().unwrap(), Closed::Disconnected);
    fs::remove_file(&socket).unwrap();
    text
}

fn setup(base: &[u8], size: u64) -> (tempfile::TempDir, Arc<Overlay>) {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("base"), base).unwrap();
    let base = Arc::new(RawImage::open(&directory.path().join("base")).unwrap());
    let disk = Overlay::create(base, &directory.path().join("cow"), size).unwrap();
    (directory, Arc::new(disk))
}

#[test]
fn qemu_io_reads_writes_zeroes_discards_and_flushes() {
    let (directory, disk) = setup(&[0xb5; 1 << 20], 64 << 20);
    let commands = [
        "read -P 0xb5 0 1M",
        "read -P 0 1M 63M",
        "write -P 0x11 4k 8k",
        "write -P 0x22 63M 1M",
        "write -f -P 0x33 100 57",
        "write -z -u 5k 2k",
        "discard 16k 8k",
        "flush",
        "read -P 0xb5 0 100",
        "read -P 0x33 100 57",
        "read -P 0x11 4k 1k",
        "read -P 0 5k 2k",
        "read -P 0x11 7k 5k",
        "read -P 0 16k 8k",
        "read -P 0x22 63M 1M",
    ];
    let mut arguments = vec!["-f", "raw", "-d", "unmap"];
    for command in &commands {
        arguments.extend(["-c", *command]);
    }
    arguments.push("DISK");
    let output = with_tool(directory.path(), &disk, "qemu-io", &arguments);
    assert!(!output.contains("failed") && !output.contains("rror"), "{output}");
    assert_eq!(disk.dirty_count(), 1 + 2 + 2 + 256);
}

#[test]
fn qemu_img_copies_a_disk_in_and_compares_it() {
    let (directory, disk) = setup(b"", 96 << 20);
    let raw = directory.path().join("raw");
    let bytes: Vec<u8> = (0..48_u32 << 20).map(|i| (i / 77).to_le_bytes()[0]).collect();
    fs::write(&raw, bytes).unwrap();
    fs::File::options().write(true).open(&raw).unwrap().set_len(96 << 20).unwrap();
    let raw = raw.to_str().unwrap();

    let info = with_tool(directory.path(), &disk, "qemu-img", &["info", "-f", "raw", "DISK"]);
    assert!(info.contains("96 MiB"), "{info}");
    with_tool(directory.path(), &disk, "qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", raw, "DISK"]);
    let compared =
        with_tool(directory.path(), &disk, "qemu-img", &["compare", "-f", "raw", "-F", "raw", raw, "DISK"]);
    assert!(compared.contains("identical"), "{compared}");
}
