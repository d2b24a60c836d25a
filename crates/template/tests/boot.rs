//! The base template, really made, and really booted.
//!
//! Debian and the kernel are kept between runs, in the state directory that the end-to-end tests use too
//! (`COLDFRAME_E2E_STATE`, or `/var/cache/coldframe/e2e-state`); the guest's programs are built when
//! `COLDFRAME_GUEST_DIR` does not name them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use template::{BaseOptions, Build, Dirs, GuestBinaries, LogProgress};

/// A boot takes two seconds on an idle machine without hardware virtualization.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);

struct Guest {
    init: Vec<u8>,
    envd: Vec<u8>,
}

fn guest() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(|| {
        let dir = std::env::var_os("COLDFRAME_GUEST_DIR").map_or_else(build_guest, PathBuf::from);
        let read = |name: &str| fs::read(dir.join(name)).unwrap();
        Guest { init: read("guest-init"), envd: read("envd") }
    })
}

fn build_guest() -> PathBuf {
    // Cargo runs a test in the directory of its package.
    let workspace = Path::new("../..").canonicalize().unwrap();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    let triple = "x86_64-unknown-linux-gnu";
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--profile",
            "guest",
            "--target",
            triple,
            "-p",
            "envd",
            "-p",
            "guest-init",
        ])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(workspace)
        .status()
        .unwrap();
    assert!(status.success(), "the guest's programs do not build");
    target.join(triple).join("guest")
}

fn cache() -> PathBuf {
    std::env::var_os("COLDFRAME_E2E_STATE").unwrap_or_else(|| "/var/cache/coldframe/e2e-state".into()).into()
}

fn base() -> &'static Build {
    static BASE: OnceLock<Build> = OnceLock::new();
    BASE.get_or_init(|| {
        let Guest { init, envd } = guest();
        template::ensure_base(
            &Dirs::new(cache()),
            &GuestBinaries { init, envd },
            &BaseOptions::default(),
            &LogProgress,
        )
        .unwrap()
    })
}

/// A running QEMU, ended when dropped.
struct Machine {
    qemu: Child,
    console: Receiver<String>,
    seen: Vec<String>,
}

impl Machine {
    fn start(build: &Build, kernel_arguments: &str, devices: &[String]) -> Self {
        let khz = tsc_khz();
        let append = format!(
            "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests tsc=reliable tsc_early_khz={khz} {kernel_arguments}"
        );
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-M", "microvm,accel=tcg,rtc=on", "-cpu", "max", "-smp", "2", "-m", "512"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"])
            .arg("-kernel")
            .arg(&build.kernel)
            .arg("-initrd")
            .arg(&build.initrd)
            .args(["-append", &append])
            .args(devices)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86_64 is in the Debian package qemu-system-x86");
        let (lines, console) = channel();
        let output = BufReader::new(qemu.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let _ = lines.send(String::from_utf8_lossy(&line).trim().to_owned());
            }
        });
        Self { qemu, console, seen: Vec::new() }
    }

    /// The first line from now on that contains `text`.
    fn line_with(&mut self, text: &str) -> String {
        let deadline = Instant::now() + BOOT_DEADLINE;
        loop {
            match self.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("no {text:?} in time; the console:\n{}", self.seen.join("\n"))
                }
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("no {text:?}; the console:\n{}", self.seen.join("\n"))
                }
            }
            if let Some(line) = self.seen.last().filter(|line| line.contains(text)) {
                return line.clone();
            }
        }
    }

    /// Waits until the monitor has ended by itself.
    fn wait_for_end(&mut self) {
        let deadline = Instant::now() + BOOT_DEADLINE;
        // The console closes when the monitor ends.
        while let Ok(line) = self.console.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.seen.push(line);
        }
        assert!(Instant::now() < deadline, "the machine goes on; the console:\n{}", self.seen.join("\n"));
        assert!(self.qemu.wait().unwrap().success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Without it the guest measures its clock against an emulated timer, which fails on a busy host.
fn tsc_khz() -> u64 {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let line = info.lines().find(|line| line.starts_with("cpu MHz")).unwrap();
    let mhz = line.split(':').nth(1).unwrap().trim();
    let (whole, part) = mhz.split_once('.').unwrap_or((mhz, "0"));
    whole.parse::<u64>().unwrap() * 1000 + format!("{part:0<3}")[..3].parse::<u64>().unwrap()
}

fn devices(build: &Build, port: u16) -> Vec<String> {
    let disk = format!("file={},format=raw,if=none,id=disk,snapshot=on", build.rootfs.display());
    let net = format!(
        "user,id=net,net=169.254.0.0/24,host=169.254.0.22,dns=169.254.0.23,dhcpstart=169.254.0.24,restrict=on,\
         hostfwd=tcp:127.0.0.1:{port}-169.254.0.21:49983"
    );
    ["-drive", &disk, "-device", "virtio-blk-device,drive=disk", "-netdev", &net]
        .into_iter()
        .chain(["-device", "virtio-net-device,netdev=net", "-device", "virtio-rng-device"])
        .map(str::to_owned)
        .collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What envd answers; the forwarder in between accepts connections before anybody listens.
fn get(port: u16, path: &str) -> String {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let ask = || {
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(BOOT_DEADLINE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: guest\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        (!answer.is_empty()).then_some(answer)
    };
    let deadline = Instant::now() + BOOT_DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "envd does not answer");
        std::thread::yield_now();
    }
}

/// A file in the guest.
fn file(port: u16, path: &str) -> String {
    let answer = get(port, &format!("/files?username=root&path={path}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[test]
fn a_base_that_is_there_is_found_at_once() {
    let first = base();
    let Guest { init, envd } = guest();
    let start = Instant::now();
    let again = template::ensure_base(
        &Dirs::new(cache()),
        &GuestBinaries { init, envd },
        &BaseOptions::default(),
        &LogProgress,
    );
    let took = start.elapsed();
    assert_eq!(again.unwrap().id, first.id);
    // Nearly all of it is hashing the guest's programs, which takes a debug build fifty times as long.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 5000 } else { 100 });
    assert!(took < limit, "{took:?}");
}

#[test]
fn changed_guest_programs_cost_a_new_initramfs_and_nothing_else() {
    let first = base();
    let state = tempfile::tempdir_in(cache()).unwrap();
    let dirs = Dirs::new(state.path());
    // A state directory of its own, with what took long from the cache.
    for dir in ["kernels", "cache", "builds"] {
        link_tree(&cache().join(dir), &state.path().join(dir));
    }
    let changed = GuestBinaries { init: b"another", envd: &guest().envd };
    let make = || template::ensure_base(&dirs, &changed, &BaseOptions::default(), &LogProgress).unwrap();
    // Of two at once, one makes it and the other finds it.
    let (build, same) = std::thread::scope(|scope| {
        let other = scope.spawn(make);
        (make(), other.join().unwrap())
    });
    assert_eq!(build.id, same.id);
    assert_ne!(build.id, first.id);
    assert_ne!(build.initrd.file_name(), first.initrd.file_name());
    assert_eq!(build.kernel.file_name(), first.kernel.file_name());
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    assert_eq!(inode(&build.rootfs), inode(&first.rootfs));
    // The one before is still there for whoever runs from it.
    template::load(&dirs, &first.id).unwrap();
}

fn link_tree(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_name().to_string_lossy().starts_with("staging-") {
            continue;
        } else if entry.file_type().unwrap().is_dir() {
            link_tree(&entry.path(), &target);
        } else {
            fs::hard_link(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_probe_says_so_and_ends() {
    let mut machine = Machine::start(base(), "coldframe.probe", &[]);
    machine.line_with("coldframe-probe-ok");
    machine.wait_for_end();
}

#[test]
fn a_machine_without_a_disk_says_why_and_ends() {
    let mut machine = Machine::start(base(), "", &[]);
    let line = machine.line_with("coldframe: fatal");
    assert!(line.contains("/dev/vda"), "{line}");
    machine.wait_for_end();
}

#[test]
fn the_base_template_boots_until_envd_answers() {
    let (build, port) = (base(), free_port());
    let arguments = "coldframe.hostname=i0test coldframe.ip=169.254.0.21/30 coldframe.gw=169.254.0.22 \
                     coldframe.dns=192.0.2.1";
    let mut machine = Machine::start(build, arguments, &devices(build, port));
    machine.line_with("coldframe: starting envd");
    let timeline = machine.line_with("coldframe: boot");
    for step in ["init=", "bus=", "disk=", "root=", "names=", "network=", "envd="] {
        assert!(timeline.contains(step), "{timeline}");
    }
    println!("{timeline}");
    assert!(get(port, "/health").starts_with("HTTP/1.1 204"));

    assert!(file(port, "/etc/hosts").contains("127.0.1.1 i0test"));
    assert!(file(port, "/etc/resolv.conf").contains("nameserver 192.0.2.1"));
    let envd = file(port, "/proc/self/status");
    assert!(envd.contains("SigBlk:\t0000000000000000"), "{envd}");

    // Whoever asks PID 1 to end ends the machine, in order.
    start_as_root(port, r#"{"process":{"cmd":"/bin/sh","args":["-c","kill -TERM 1"]}}"#);
    machine.line_with("coldframe: asked to end");
    machine.wait_for_end();
}

/// Starts a process in the guest (Connect protocol: one message with its length before it).
fn start_as_root(port: u16, request: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST /process.Process/Start HTTP/1.1\r\nhost: guest\r\nauthorization: Basic cm9vdDo=\r\n\
         connect-protocol-version: 1\r\ncontent-type: application/connect+json\r\ncontent-length: {}\r\n\r\n\0",
        request.len() + 5
    )
    .unwrap();
    stream.write_all(&u32::try_from(request.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = [0; 15];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
}
