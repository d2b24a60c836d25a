//! Machines that a debugger looks into.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod common;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::Guest;
use common::count::{COUNT, next_tick};
use common::machine::{PATIENCE, end_of, machine};
use vmm::{Driver, Qemu, Start, Step, StepError, Vm, VmmError};

/// A guest that runs says something more often than this.
const SILENCE: Duration = Duration::from_secs(2);

struct Door {
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Door {
    async fn open(vm: &dyn Vm) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gdb.sock");
        vm.let_debuggers_in(UnixListener::bind(&path).unwrap().into()).await.unwrap();
        Self { path, _directory: directory }
    }
}

/// A gdb that is connected.
struct Debugger {
    process: Child,
    commands: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Debugger {
    fn connect(door: &Door) -> Self {
        let mut process = Command::new("gdb")
            .args(["-nx", "-q", "-iex", "set confirm off", "-iex", "set pagination off"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("gdb, in the Debian package gdb");
        let (commands, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut debugger = Self { process, commands, output: BufReader::new(output) };
        debugger.tell("set architecture i386:x86-64");
        debugger.tell(&format!("target remote {}", door.path.display()));
        debugger
    }

    /// Has it do something, and returns what it says.
    fn tell(&mut self, command: &str) -> String {
        const END: &str = "-- done --";
        writeln!(self.commands, "{command}\necho \\n{END}\\n").unwrap();
        let mut said = String::new();
        while !said.ends_with(&format!("{END}\n")) {
            assert_ne!(self.output.read_line(&mut said).unwrap(), 0, "gdb ended: {said}");
        }
        said
    }

    /// Where the processor is.
    fn instruction(&mut self) -> String {
        let said = self.tell("output/x $rip");
        said.split_whitespace().find(|word| word.contains("0xffffffff")).expect(&said).to_owned()
    }

    fn leave(mut self) {
        let said = self.tell("detach");
        assert!(said.contains("detached"), "{said}");
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Nothing more comes, after what was on its way.
fn is_silent(console: &mut UnixStream) -> bool {
    console.set_read_timeout(Some(SILENCE)).unwrap();
    let begun = std::time::Instant::now();
    let mut rest = [0; 4096];
    let silent = loop {
        match console.read(&mut rest) {
            Ok(read) if read > 0 && begun.elapsed() < SILENCE => {}
            Ok(_) => break false,
            Err(error) => break matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    };
    console.set_read_timeout(Some(PATIENCE)).unwrap();
    silent
}

fn goes_on(console: &mut UnixStream) {
    let first = next_tick(console).number;
    assert!(next_tick(console).number > first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_stands_still_while_a_debugger_is_there_and_goes_on_when_it_leaves() {
    let (machine, mut console) = machine(&Guest::get(), COUNT);
    let vm = Qemu::new().launch(machine).await.unwrap();
    next_tick(&mut console);
    let door = Door::open(&*vm).await;
    goes_on(&mut console);

    let mut debugger = Debugger::connect(&door);
    assert!(is_silent(&mut console));
    let before = debugger.instruction();
    assert_eq!(debugger.instruction(), before);
    debugger.tell("stepi");
    assert_ne!(debugger.instruction(), before);
    debugger.leave();
    goes_on(&mut console);

    // The next one may come.
    Debugger::connect(&door).leave();
    goes_on(&mut console);

    let again = vm.let_debuggers_in(UnixListener::bind(door.path.with_extension("2")).unwrap().into()).await;
    let Err(VmmError::Step { step, source }) = again else { panic!("{again:?}") };
    assert!(step == Step::LetDebuggersIn && matches!(source, StepError::Condition(_)), "{source}");
    vm.keep_debuggers_out().await.unwrap();
    vm.keep_debuggers_out().await.unwrap();
    goes_on(&mut console);
    vm.kill();
    end_of(&*vm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_there_is_cut_off_and_the_guest_can_go_on() {
    let (machine, mut console) = machine(&Guest::get(), COUNT);
    let vm = Qemu::new().launch(machine).await.unwrap();
    next_tick(&mut console);
    let door = Door::open(&*vm).await;
    let mut debugger = Debugger::connect(&door);
    assert!(is_silent(&mut console));

    vm.keep_debuggers_out().await.unwrap();
    let said = debugger.tell("stepi");
    assert!(!said.contains("0xffffffff"), "it is cut off: {said}");
    assert!(UnixStream::connect(&door.path).is_err(), "nobody listens");
    assert!(is_silent(&mut console));
    vm.resume().await.unwrap();
    goes_on(&mut console);
    // It is as it was: it can be paused, saved and let in again.
    vm.pause().await.unwrap();
    vm.save_state().await.unwrap();
    let door = Door::open(&*vm).await;
    Debugger::connect(&door).leave();
    goes_on(&mut console);
    vm.kill();
    end_of(&*vm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_can_be_looked_into_before_it_ever_runs() {
    let guest = Guest::get();
    let (machine_to_save, mut console) = machine(&guest, COUNT);
    let memory = machine_to_save.memory.try_clone().unwrap();
    let qemu = Qemu::new();
    let vm = qemu.launch(machine_to_save).await.unwrap();
    next_tick(&mut console);
    vm.pause().await.unwrap();
    let state = vm.save_state().await.unwrap();
    vm.kill();
    end_of(&*vm).await;

    let (mut held, mut console) = machine(&guest, "");
    held.memory = memory;
    held.start = Start::Incoming { preload: None };
    let vm = qemu.launch(held).await.unwrap();
    vm.load_state(&state).await.unwrap();
    let door = Door::open(&*vm).await;
    let mut debugger = Debugger::connect(&door);
    let first = debugger.instruction();
    assert!(is_silent(&mut console));
    assert_eq!(debugger.instruction(), first);
    debugger.leave();
    goes_on(&mut console);
    vm.kill();
    end_of(&*vm).await;
}
