//! Machines that are paused, saved and go on, in their own process or in another.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::Guest;
use common::count::{COUNT, next_tick};
use common::machine::{end_of, machine, serve};
use disk::{BlockDevice, Overlay, RawImage};
use vmm::{Accel, Driver, GuestMemory, Machine, Qemu, Start, Step, StepError, VmmError};

fn copy(memory: &GuestMemory) -> GuestMemory {
    let copy = GuestMemory::create(memory.size()).unwrap();
    let mut chunk = vec![0; 1 << 20];
    for at in (0..memory.size()).step_by(chunk.len()) {
        assert_eq!(rustix::io::pread(memory, &mut *chunk, at).unwrap(), chunk.len());
        if chunk.iter().any(|byte| *byte != 0) {
            assert_eq!(rustix::io::pwrite(&copy, &chunk, at).unwrap(), chunk.len());
        }
    }
    copy
}

fn incoming(guest: &Guest, memory: GuestMemory) -> (Machine, UnixStream) {
    let (mut machine, console) = machine(guest, "");
    machine.memory = memory;
    machine.start = Start::Incoming { preload: None };
    (machine, console)
}

/// The step that failed and why.
fn failure(result: Result<impl Sized, VmmError>) -> (Step, StepError, String) {
    let Err(error) = result else { panic!("it should have failed") };
    let text = error.to_string();
    let VmmError::Step { step, source } = error else { panic!("{text}") };
    (step, source, text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_goes_on_where_it_was_saved() {
    let guest = Guest::get();
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().join("base");
    std::fs::write(&base, b"").unwrap();
    let base = Arc::new(RawImage::open(&base).unwrap());
    let disk = Arc::new(Overlay::create(base, &directory.path().join("cow"), 1 << 20).unwrap());
    let (mut first, mut console) = machine(&guest, COUNT);
    let memory = first.memory.try_clone().unwrap();
    let (root_disk, server) = serve(Arc::clone(&disk));
    first.root_disk = root_disk;

    let qemu = Qemu::new();
    let vm = qemu.launch(first).await.unwrap();
    assert_eq!(*vm.identity(), qemu.identity(Accel::Tcg).await.unwrap());
    while next_tick(&mut console).number < 5 {}
    let (step, source, _) = failure(vm.save_state().await);
    assert!(matches!((step, source), (Step::SaveState, StepError::Condition(_))));

    // It can be saved more than once, and goes on by itself.
    vm.pause().await.unwrap();
    vm.pause().await.unwrap();
    let once = vm.save_state().await.unwrap();
    let twice = vm.save_state().await.unwrap();
    assert_eq!(once, twice);
    assert!((1 << 10..1 << 20).contains(&once.len()), "{} bytes without the memory", once.len());
    vm.resume().await.unwrap();
    vm.resume().await.unwrap();
    let mut last = next_tick(&mut console);
    for _ in 0..5 {
        let next = next_tick(&mut console);
        assert!(next.number == last.number + 1 && next.written, "{next:?} after {last:?}");
        last = next;
    }

    vm.pause().await.unwrap();
    let state = vm.save_state().await.unwrap();
    vm.kill();
    end_of(&*vm).await;
    server.join().unwrap();
    // What it said before it was paused is read before what it says elsewhere.
    console.set_nonblocking(true).unwrap();
    let mut rest = Vec::new();
    let _ = std::io::Read::read_to_end(&mut console, &mut rest);
    let rest = String::from_utf8_lossy(&rest).into_owned();
    let number = |line: &str| line.strip_prefix("tick ")?.split(' ').next()?.parse::<u64>().ok();
    let said = rest.lines().filter(|line| line.ends_with(char::is_numeric)).filter_map(number).next_back();
    let said = said.unwrap_or(last.number);

    // The memory is a copy, so that what is loaded is certainly not what the first one still had.
    let (mut second, mut console) = incoming(&guest, copy(&memory));
    let (root_disk, server) = serve(Arc::clone(&disk));
    second.root_disk = root_disk;
    let vm = qemu.launch(second).await.unwrap();
    for (expected, result) in [
        (Step::Resume, vm.resume().await),
        (Step::Pause, vm.pause().await),
        (Step::SaveState, vm.save_state().await.map(drop)),
    ] {
        let (step, source, text) = failure(result);
        assert!(step == expected && matches!(source, StepError::Condition(_)), "{text}");
    }
    let begun = Instant::now();
    vm.load_state(&state).await.unwrap();
    let loaded = begun.elapsed();
    let (_, source, _) = failure(vm.load_state(&state).await);
    assert!(matches!(source, StepError::Condition(_)));
    // It could be saved again without having run.
    assert_eq!(vm.save_state().await.unwrap().len(), state.len());
    let begun = Instant::now();
    vm.resume().await.unwrap();
    println!("load_state {loaded:?}, resume {:?}", begun.elapsed());

    // The line that it was in the middle of may come without its beginning.
    let first = next_tick(&mut console);
    assert!((said + 1..=said + 2).contains(&first.number), "{first:?} after {said}");
    assert!(first.uptime >= last.uptime && first.uptime < last.uptime + 30.0, "{first:?} after {last:?}");
    let next = next_tick(&mut console);
    assert!(next.number == first.number + 1 && next.written && next.uptime >= first.uptime, "{next:?}");
    vm.kill();
    end_of(&*vm).await;
    server.join().unwrap();
    for number in 1..=next.number {
        let mut sector = [0; 8];
        disk.read_at(&mut sector, number * 512).unwrap();
        assert!(sector.starts_with(format!("{number}\n").as_bytes()), "{number}: {sector:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_makes_no_sense_ends_the_machine() {
    let guest = Guest::get();
    let (source, _console) = machine(&guest, "");
    let memory = source.memory.try_clone().unwrap();
    let vm = Qemu::new().launch(source).await.unwrap();
    vm.pause().await.unwrap();
    let state = vm.save_state().await.unwrap();
    vm.kill();

    let third = &state[..state.len() / 3];
    // More than the socket holds, of which QEMU reads only the beginning.
    let garbage = vec![0xa5; 4 << 20];
    for (bad, words) in [(third, "Input/output error"), (&garbage, "Not a migration stream"), (&[], "")] {
        let (target, _console) = incoming(&guest, copy(&memory));
        let vm = Qemu::new().launch(target).await.unwrap();
        let (step, source, text) = failure(vm.load_state(bad).await);
        assert_eq!(step, Step::LoadState);
        assert!(matches!(source, StepError::Exited(_)) && text.contains(words), "{text}");
        assert!(!Path::new(&format!("/proc/{}", vm.pid())).exists(), "it is gone");
        let (_, source, _) = failure(vm.resume().await);
        assert!(matches!(source, StepError::Condition(_)), "{source}");
    }
}

/// On one thread, whose clock can be made to jump.
#[tokio::test]
async fn a_monitor_that_hangs_is_late_and_may_recover() {
    let guest = Guest::get();
    let (machine, _console) = machine(&guest, "");
    let vm = Qemu::new().launch(machine).await.unwrap();
    vm.pause().await.unwrap();
    // Who goes away while it is saved leaves it whole.
    let gone = tokio::time::timeout(Duration::from_micros(1), vm.save_state()).await;
    assert!(gone.is_err());
    let whole = vm.save_state().await.unwrap();
    vm.resume().await.unwrap();
    vm.pause().await.unwrap();

    let pid = rustix::process::Pid::from_raw(vm.pid()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    tokio::time::pause();
    let (step, source, text) = failure(vm.save_state().await);
    assert_eq!(step, Step::SaveState);
    assert!(matches!(source, StepError::Control(_)) && text.contains("within 10 s"), "{text}");
    let (step, _, text) = failure(vm.resume().await);
    assert!(step == Step::Resume && text.contains("did not answer cont within 10 s"), "{text}");
    tokio::time::resume();

    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    vm.pause().await.unwrap();
    assert_eq!(vm.save_state().await.unwrap().len(), whole.len());
    vm.resume().await.unwrap();
    vm.kill();
    end_of(&*vm).await;
    let (_, source, text) = failure(vm.pause().await);
    assert!(matches!(source, StepError::Exited(_)) && text.contains("killed by signal 9"), "{text}");
}
