//! Machines whose memory comes when it is touched.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use build::{PAGE_BYTES, Pages, ReadError, Run};
use common::Guest;
use common::count::{COUNT, next_tick};
use common::machine::{end_of, machine};
use guest_memory::{GuestMemory, Options, PageServer, handshake};
use vmm::{Driver, Preload, Qemu, Start};

/// The memory of a machine that is no more, as an image.
struct Image(GuestMemory);

impl Pages for Image {
    fn pages(&self) -> u64 {
        self.0.size() / PAGE_BYTES
    }

    fn run(&self, page: u64) -> Run {
        if page < self.pages() { Run::Data(self.pages() - page) } else { Run::Zero(1) }
    }

    fn read(&self, first: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let offset = first * PAGE_BYTES;
        assert_eq!(rustix::io::pread(&self.0, &mut *buffer, offset).unwrap(), buffer.len());
        Ok(())
    }
}

/// The library, built by the same cargo as this test.
fn library() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "-p", "uffd-preload", "--message-format=json-render-diagnostics"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout).unwrap();
    let artifact = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let file = message["filenames"].as_array()?.first()?.as_str()?.to_owned();
        file.ends_with("uffd_preload.so").then_some(file)
    };
    messages.lines().find_map(artifact).expect("a library among the artifacts").into()
}

/// A copy in memory, as any user may read it.
fn in_memory(file: &PathBuf) -> File {
    let mut copy = File::from(rustix::fs::memfd_create("library", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    std::io::copy(&mut File::open(file).unwrap(), &mut copy).unwrap();
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_goes_on_with_memory_that_comes_when_it_is_touched() {
    let Ok(device) = File::options().read(true).write(true).open("/dev/userfaultfd") else {
        println!("skipped: this host has no /dev/userfaultfd");
        return;
    };
    let guest = Guest::get();
    let (source, mut console) = machine(&guest, COUNT);
    let saved = source.memory.try_clone().unwrap();
    let vm = Qemu::new().launch(source).await.unwrap();
    let mut last = next_tick(&mut console);
    while last.number < 5 {
        last = next_tick(&mut console);
    }
    vm.pause().await.unwrap();
    let state = vm.save_state().await.unwrap();
    vm.kill();
    end_of(&*vm).await;

    let (mut target, mut console) = machine(&guest, "");
    let memory = target.memory.try_clone().unwrap();
    let (ours, socket) = handshake::pair().unwrap();
    target.start = Start::Incoming {
        preload: Some(Preload {
            library: in_memory(&library()).into(),
            socket,
            userfaultfd: Some(device.into()),
        }),
    };
    let vm = Qemu::new().launch(target).await.unwrap();
    let handshake = handshake::receive(ours, Instant::now() + Duration::from_secs(5)).unwrap();
    assert_eq!(i64::from(handshake.pid), i64::from(vm.pid()));
    assert_eq!(handshake.regions.len(), 1);
    assert_eq!(memory.resident().unwrap(), 0, "nothing was touched yet");
    let options = Options { on_failure: Box::new(|error| panic!("{error}")), record: true };
    let server = PageServer::start(handshake, Arc::new(Image(saved)), options).unwrap();

    let begun = Instant::now();
    vm.load_state(&state).await.unwrap();
    let loaded = begun.elapsed();
    let touched = memory.resident().unwrap();
    assert!(touched < 1 << 20, "{touched} bytes to load a state");
    vm.resume().await.unwrap();
    println!("load_state {loaded:?}, load_state and resume {:?}", begun.elapsed());
    let first = next_tick(&mut console);
    println!("first line {:?}, {} KiB touched", begun.elapsed(), memory.resident().unwrap() >> 10);
    assert!((last.number + 1..last.number + 9).contains(&first.number), "{first:?} after {last:?}");
    assert!(first.uptime >= last.uptime, "{first:?} after {last:?}");
    assert_eq!(next_tick(&mut console).number, first.number + 1);
    assert!(memory.resident().unwrap() < memory.size() / 4, "not everything was needed");
    assert!(!server.working_set().is_empty());
    vm.kill();
    end_of(&*vm).await;
    server.stop();
}
