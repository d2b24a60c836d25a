//! Real guests under the real QEMU.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Guest;
use common::machine::{PATIENCE, end_of, machine, read_until, serve};
use disk::nbd::Closed;
use disk::{BlockDevice, Overlay, RawImage};
use model::VcpuCount;
use vmm::{Driver, ExitCause, Qemu, RootDisk, Start, VmmError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_computes_reads_and_writes_and_its_memory_outlives_it() {
    let guest = Guest::get();
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base");
    fs::write(&base, b"seedlings in a box\n").unwrap();
    let image = Arc::new(RawImage::open(&base).unwrap());
    let disk = Arc::new(Overlay::create(image, &directory.path().join("cow"), 64 << 20).unwrap());

    let script = "head_-n1_/dev/vda;\
                  echo_frost_|_dd_of=/dev/vda_bs=1_seek=1048576_conv=fsync;\
                  blockdev_--getsize64_/dev/vda;\
                  cat_/sys/class/misc/hw?random/rng?current;\
                  echo_done_$((6*7));reboot_-f";
    let (mut machine, mut console) = machine(&guest, &format!("test.run={script}"));
    machine.vcpus = VcpuCount(2);
    let memory = machine.memory.try_clone().unwrap();
    let (root_disk, server) = serve(disk.clone());
    machine.root_disk = root_disk;

    let vm = Qemu::new().launch(machine).await.unwrap();
    let output = read_until(&mut console, "done 42");
    for expected in ["guest is up with 2 processors", "seedlings in a box", "67108864", "virtio_rng.0"] {
        assert!(output.contains(expected), "{expected} is missing in: {output}");
    }
    let exit = end_of(&*vm).await;
    assert_eq!(exit.cause, ExitCause::GuestReset, "{exit}");
    assert!(exit.is_clean());
    assert_eq!(server.join().unwrap(), Closed::Disconnected);

    let mut written = [0; 6];
    disk.read_at(&mut written, 1 << 20).unwrap();
    assert_eq!(&written, b"frost\n");
    assert_eq!(disk.dirty_count(), 1);
    assert_eq!(fs::read(&base).unwrap(), b"seedlings in a box\n");

    // The monitor is gone; what the guest had in memory is not.
    assert!(memory.resident().unwrap() > 1 << 20);
    let mut page = vec![0; 256 << 20];
    rustix::io::pread(&memory, &mut page, 0).unwrap();
    assert!(page.windows(18).any(|bytes| bytes == b"seedlings in a box"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_kills_and_the_process_was_confined() {
    let guest = Guest::get();
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("base"), b"").unwrap();
    let image = Arc::new(RawImage::open(&directory.path().join("base")).unwrap());
    let disk = Overlay::create(image, &directory.path().join("cow"), 1 << 20).unwrap();
    let (root_disk, server) = serve(Arc::new(disk));
    let (mut machine, mut console) = machine(&guest, "");
    machine.root_disk = root_disk;
    let vm = Qemu::new().launch(machine).await.unwrap();
    read_until(&mut console, "guest is up");

    let process = format!("/proc/{}", vm.pid());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    for expected in [
        "Uid:\t64321\t64321\t64321\t64321",
        "Groups:\t \n",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "CapEff:\t0000000000000000",
    ] {
        assert!(status.contains(expected), "{expected} is missing in: {status}");
    }
    assert_eq!(fs::read_link(format!("{process}/cwd")).unwrap(), Path::new("/"));
    let environment = fs::read(format!("{process}/environ")).unwrap();
    assert!(environment.starts_with(b"PATH=") && environment.split(|b| *b == 0).count() == 2);
    // Nothing of this test's but what the machine is made of: no listening socket, no directory, no other file.
    for entry in fs::read_dir(format!("{process}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap().display().to_string();
        let known = ["/dev/null", "pipe:", "socket:", "anon_inode:", "/memfd:guest-memory", "/dev/urandom"];
        // Another test may have put a new initramfs in the place of this one, which is "deleted" then.
        let boot = [guest.kernel.display().to_string(), guest.initrd.display().to_string()];
        assert!(
            known.iter().any(|k| target.starts_with(k)) || boot.iter().any(|b| target.starts_with(b)),
            "{target}"
        );
    }

    let begun = Instant::now();
    vm.kill();
    let exit = end_of(&*vm).await;
    assert_eq!(exit.cause, ExitCause::Signal(9));
    assert!(!exit.is_clean());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(!Path::new(&process).exists(), "not even a zombie is left");
    assert_eq!(server.join().unwrap(), Closed::HungUp);
    assert_eq!(console.read_to_end(&mut Vec::new()).ok().map(|_| ()), Some(()), "the console ends");
    vm.kill();
    assert_eq!(vm.wait().await.cause, ExitCause::Signal(9));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_may_power_off_or_panic() {
    let guest = Guest::get();
    let (off, mut off_console) = machine(&guest, "test.run=poweroff_-f");
    let (panic, mut panic_console) = machine(&guest, "test.run=echo_c_>/proc/sysrq-trigger");
    let qemu = Qemu::new();
    let (off, panic) = tokio::join!(qemu.launch(off), qemu.launch(panic));
    let (off, panic) = (off.unwrap(), panic.unwrap());
    std::thread::spawn(move || off_console.read_to_end(&mut Vec::new()));
    std::thread::spawn(move || panic_console.read_to_end(&mut Vec::new()));
    assert_eq!(end_of(&*off).await.cause, ExitCause::GuestShutdown);
    assert_eq!(end_of(&*panic).await.cause, ExitCause::GuestReset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let guest = Guest::get();
    let qemu = Qemu::new();

    let (mut missing, _console) = machine(&guest, "");
    missing.start = Start::Boot {
        kernel: "/nonexistent/vmlinux".into(),
        initrd: guest.initrd.clone(),
        cmdline: String::new(),
    };
    let error = qemu.launch(missing).await.err().unwrap();
    assert!(
        matches!(error, VmmError::File { .. }) && error.to_string().contains("/nonexistent/vmlinux"),
        "{error}"
    );

    let (mut machine_without_server, _console) = machine(&guest, "");
    machine_without_server.root_disk = RootDisk::Nbd(UnixStream::pair().unwrap().0.into());
    let error = qemu.launch(machine_without_server).await.err().unwrap();
    let VmmError::Exited(exit) = error else { panic!("{error}") };
    assert!(matches!(exit.cause, ExitCause::Monitor(1)) && !exit.message.is_empty(), "{exit}");

    let (mut not_a_kernel, _console) = machine(&guest, "");
    not_a_kernel.start =
        Start::Boot { kernel: guest.initrd.clone(), initrd: guest.initrd.clone(), cmdline: String::new() };
    let error = qemu.launch(not_a_kernel).await.err().unwrap();
    assert!(matches!(error, VmmError::Exited(_)), "{error}");
}

/// Runs one test of this program in a process of its own, in an empty network namespace if asked.
fn in_own_process(test: &str, role: &str, new_network: bool) -> Command {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(if new_network { "unshare".as_ref() } else { this.as_os_str() });
    if new_network {
        command.arg("-n").arg(&this);
    }
    command.args([test, "--exact", "--nocapture"]).env("COLDFRAME_TEST_ROLE", role);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_does_not_survive_its_owner() {
    let guest = Guest::get();
    if std::env::var("COLDFRAME_TEST_ROLE").is_ok_and(|role| role == "owner") {
        let (machine, mut console) = machine(&guest, "");
        let vm = Qemu::new().launch(machine).await.unwrap();
        println!("\npid {}", vm.pid());
        let _ = console.read_to_end(&mut Vec::new());
        return;
    }
    let mut owner = in_own_process("a_guest_does_not_survive_its_owner", "owner", false)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(owner.stdout.take().unwrap());
    let pid =
        output.lines().map_while(Result::ok).find_map(|line| line.strip_prefix("pid ")?.parse::<i32>().ok());
    let process = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(pid.unwrap()).unwrap(),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    let mut gone = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    assert_eq!(
        rustix::event::poll(&mut gone, Some(&limit)).unwrap(),
        1,
        "QEMU outlived the one who started it"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_go_both_ways_through_the_tap() {
    if std::env::var("COLDFRAME_TEST_ROLE").is_err() {
        let status =
            in_own_process("packets_go_both_ways_through_the_tap", "network", true).status().unwrap();
        assert!(status.success());
        return;
    }
    let guest = Guest::get();
    let run = |arguments: &str| {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip (package iproute2)");
        assert!(status.success(), "ip {arguments}");
    };
    let tap = sys::tap::open("tap0").unwrap();
    run("addr add 169.254.0.22/30 dev tap0");
    run("link set tap0 up");
    run("link set lo up");
    let listener = TcpListener::bind("169.254.0.22:7000").unwrap();

    let script = "ip_addr_add_169.254.0.21/30_dev_eth0;ip_link_set_eth0_up;\
                  ip_link_show_eth0|grep_-o_02:cf:00:00:00:05;\
                  nc_-l_-p_7001_-e_/bin/cat_&_echo_hello|nc_169.254.0.22_7000;echo_sent";
    let (mut machine, mut console) = machine(&guest, &format!("test.run={script}"));
    machine.tap = Some(tap);
    machine.mac = [0x02, 0xcf, 0, 0, 0, 5];
    let vm = Qemu::new().launch(machine).await.unwrap();

    let (mut stream, from) = listener.accept().unwrap();
    assert_eq!(from.ip().to_string(), "169.254.0.21");
    let mut line = String::new();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(&mut stream).read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    drop(stream);

    let mut echo = TcpStream::connect("169.254.0.21:7001").unwrap();
    echo.set_read_timeout(Some(PATIENCE)).unwrap();
    std::io::Write::write_all(&mut echo, b"back").unwrap();
    let mut back = [0; 4];
    echo.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"back");
    let output = read_until(&mut console, "sent");
    assert!(output.contains("02:cf:00:00:00:05"), "{output}");
    vm.kill();
    end_of(&*vm).await;
}
