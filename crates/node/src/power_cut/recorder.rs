//! Watches the system calls of a process.
//!
//! The recorder does not know what calls mean, except those that sync: after every other one that is not known to leave
//! files alone it has its caller look at them. What is written by a way that nobody thought of is seen all the same.
//!
//! It can have one of the syncs fail as if the disk did.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{ChildStdout, Command, Stdio};

use nix::errno::Errno;
use nix::libc::{self, c_long};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What the process prints when it is ready to be watched. It waits for a byte on its standard input then.
pub(super) const READY: &str = "ready to be watched";

/// What a system call may have done, as soon as it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// The inode of this number was synced.
    Sync(u64),
    /// Anything else.
    Other,
}

/// Calls that change no file, of which there are many.
const HARMLESS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_pwait,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sched_yield,
    libc::SYS_statx,
];

/// Calls that sync what the recorder would not know of. `sync_file_range` is none: it promises nothing.
const UNKNOWN: &[c_long] = &[libc::SYS_io_uring_enter, libc::SYS_msync, libc::SYS_sync, libc::SYS_syncfs];

/// Runs `command` to its end and calls `after` for every system call that may have changed or synced a file. Of the calls
/// that sync, the one with the number `fails` does not and reports an error.
///
/// # Panics
/// When the process cannot be watched, fails, or syncs in a way that is not understood.
#[expect(clippy::zombie_processes, reason = "it is waited for by its number, like its threads")]
pub(super) fn watch(mut command: Command, fails: Option<usize>, mut after: impl FnMut(Call)) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let main = Pid::from_raw(child.id().try_into().unwrap());
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains(READY) {
        assert_ne!(output.read_line(&mut said).unwrap(), 0, "the process ended: {said}");
    }
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    // All of its threads wait, so that there are no more of them a moment later.
    for task in fs::read_dir(format!("/proc/{main}/task")).unwrap() {
        let task = Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap());
        ptrace::seize(task, options)
            .unwrap_or_else(|error| panic!("a process of one's own cannot be watched: {error}"));
        ptrace::interrupt(task).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();

    let mut calls = Calls { fails, syncs: 0, under_way: HashMap::new() };
    // Only what this thread watches: other tests have processes of their own.
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
        let (stopped, signal) = match status {
            WaitStatus::PtraceSyscall(task) => {
                if ptrace::syscall_info(task).unwrap().op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    calls.begins(task);
                } else if let Some(call) = calls.ends(task) {
                    after(call);
                }
                (task, None)
            }
            WaitStatus::PtraceEvent(task, ..) => (task, None),
            WaitStatus::Stopped(task, signal) => (task, Some(signal)),
            WaitStatus::Exited(task, code) if task == main => return succeeded(code, said, output),
            WaitStatus::Exited(..) => continue,
            other => panic!("the process ended: {other:?}\n{}", rest(said, output)),
        };
        proceed(stopped, signal);
    }
    panic!("the process was lost\n{}", rest(said, output));
}

fn proceed(task: Pid, signal: Option<Signal>) {
    match ptrace::syscall(task, signal) {
        // It was killed meanwhile, and the next wait says so.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("letting the process go on: {error}"),
    }
}

#[derive(Debug, Clone, Copy)]
enum UnderWay {
    Harmless,
    Call(Call),
    /// It does nothing and reports an error.
    Fails,
}

/// The calls of all threads.
struct Calls {
    fails: Option<usize>,
    syncs: usize,
    under_way: HashMap<Pid, UnderWay>,
}

impl Calls {
    fn begins(&mut self, task: Pid) {
        let mut registers = ptrace::getregs(task).unwrap();
        let number = c_long::try_from(registers.orig_rax).unwrap();
        let call = match number {
            libc::SYS_fsync | libc::SYS_fdatasync => {
                self.syncs += 1;
                if self.fails == Some(self.syncs - 1) {
                    // No call has this number.
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(task, registers).unwrap();
                    UnderWay::Fails
                } else {
                    let file = fs::metadata(format!("/proc/{task}/fd/{}", registers.rdi)).unwrap();
                    UnderWay::Call(Call::Sync(file.ino()))
                }
            }
            number if HARMLESS.contains(&number) => UnderWay::Harmless,
            number => {
                assert!(!UNKNOWN.contains(&number), "system call {number} is not understood");
                UnderWay::Call(Call::Other)
            }
        };
        self.under_way.insert(task, call);
    }

    fn ends(&mut self, task: Pid) -> Option<Call> {
        match self.under_way.remove(&task)? {
            UnderWay::Harmless => None,
            UnderWay::Call(call) => Some(call),
            UnderWay::Fails => {
                let mut registers = ptrace::getregs(task).unwrap();
                registers.rax = i64::from(-libc::EIO).cast_unsigned();
                ptrace::setregs(task, registers).unwrap();
                None
            }
        }
    }
}

fn succeeded(code: i32, said: String, output: BufReader<ChildStdout>) {
    assert_eq!(code, 0, "{}", rest(said, output));
}

fn rest(mut said: String, mut output: BufReader<ChildStdout>) -> String {
    let _ = output.read_to_string(&mut said);
    said
}
