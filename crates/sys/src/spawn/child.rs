//! What the child does before it becomes the program.
//!
//! Only system calls, and only with memory that is laid out already: see the rule in the module above.

use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc::{self, c_int, c_long};

use super::Stage;
use super::plan::Plan;

/// Codes with which a shell ends when it cannot run a program.
const EXIT_NOT_FOUND: c_int = 127;
const EXIT_NOT_EXECUTABLE: c_int = 126;
/// `IOPRIO_WHO_PROCESS`; the best-effort class in the place where the kernel wants it.
const IOPRIO_WHO_PROCESS: c_int = 1;
const IOPRIO_CLASS_BEST_EFFORT: c_int = 2 << 13;
/// The permissions that new files do not get.
const UMASK: c_int = 0o022;
/// Size of the kernel's signal set in bytes.
const SIGSET_BYTES: usize = 8;
/// Signals that may have been ignored by whoever started us. Ignoring is inherited through exec.
const RESET_SIGNALS: [c_int; 6] =
    [libc::SIGPIPE, libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGCHLD];

/// Where the child writes down what failed. Zero means nothing did.
#[repr(C)]
pub(super) struct Report {
    stage: AtomicI32,
    errno: AtomicI32,
}

const STAGES: [Stage; 4] = [Stage::Terminal, Stage::Descriptors, Stage::Credentials, Stage::Directory];

impl Report {
    /// Nothing failed so far.
    pub(super) fn new() -> Self {
        Self { stage: AtomicI32::new(0), errno: AtomicI32::new(0) }
    }

    /// What failed, if anything did.
    pub(super) fn failure(&self) -> Option<(Stage, i32)> {
        let stage = usize::try_from(self.stage.load(Ordering::Acquire)).ok()?.checked_sub(1)?;
        Some((*STAGES.get(stage)?, self.errno.load(Ordering::Acquire)))
    }
}

/// What the child is given.
#[repr(C)]
pub(super) struct Context<'a> {
    pub(super) plan: &'a Plan,
    pub(super) report: &'a Report,
}

/// The life of the child.
///
/// # Safety
/// To be called in a new process, with a context that outlives it up to its exec or exit.
pub(super) unsafe extern "C" fn main(context: *const Context<'_>) -> ! {
    // SAFETY: the caller vouches for the context.
    let Context { plan, report } = unsafe { &*context };
    if let Err((stage, errno)) = set_up(plan) {
        let index = STAGES.iter().position(|known| *known == stage).unwrap_or(0);
        report.errno.store(errno, Ordering::Release);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "there are four stages"
        )]
        report.stage.store(index as i32 + 1, Ordering::Release);
        exit(EXIT_NOT_FOUND);
    }
    let errno = execute(plan);
    let (message, code) = match errno {
        libc::ENOENT | libc::ENOTDIR => (&plan.not_found, EXIT_NOT_FOUND),
        _ => (&plan.not_executable, EXIT_NOT_EXECUTABLE),
    };
    // SAFETY: the message is valid for its length. Nobody may be reading it, which is not our concern.
    unsafe { libc::syscall(libc::SYS_write, 2, message.as_ptr(), message.len()) };
    exit(code)
}

fn set_up(plan: &Plan) -> Result<(), (Stage, i32)> {
    let at = |stage| move |errno| (stage, errno);
    for signal in RESET_SIGNALS {
        // The kernel's own `sigaction`: handler, flags, restorer, mask. All zero is the default action.
        let default_action = [0_u64; 4];
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: the structure is at least as large as the kernel reads.
        let _ = call(unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default_action.as_ptr(), none, SIGSET_BYTES)
        });
    }
    if plan.controlling_terminal {
        // SAFETY: no memory is involved.
        call(unsafe { libc::syscall(libc::SYS_setsid) }).map_err(at(Stage::Terminal))?;
        let terminal = plan.stdio[0].as_raw_fd();
        // SAFETY: as above; the last argument is a number (do not steal the terminal).
        call(unsafe { libc::syscall(libc::SYS_ioctl, terminal, libc::TIOCSCTTY, 0) })
            .map_err(at(Stage::Terminal))?;
    }
    for (fd, source) in (0 as c_int..).zip(&plan.stdio) {
        // SAFETY: no memory is involved. The sources are above 2, so dup3 never meets equal descriptors.
        call(unsafe { libc::syscall(libc::SYS_dup3, source.as_raw_fd(), fd, 0) })
            .map_err(at(Stage::Descriptors))?;
    }
    // Ours are marked already. This is for what we inherited ourselves; a kernel that does not know it has none.
    // SAFETY: no memory is involved.
    let _ = call(unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    });
    // SAFETY: no memory is involved.
    let _ = call(unsafe { libc::syscall(libc::SYS_umask, UMASK) });
    set_priorities(plan);
    set_limits(plan);
    become_user(plan).map_err(at(Stage::Credentials))?;
    // SAFETY: the path is a C string.
    call(unsafe { libc::syscall(libc::SYS_chdir, plan.cwd.as_ptr()) }).map_err(at(Stage::Directory))?;
    let no_signals = [0_u64; SIGSET_BYTES / 8];
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the set has the size that is given.
    let _ = call(unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, no_signals.as_ptr(), none, SIGSET_BYTES)
    });
    Ok(())
}

/// Priorities are best effort: a sandbox without them is still a sandbox. Before the user changes, who may not.
fn set_priorities(plan: &Plan) {
    if let Some(score) = &plan.oom_score_adj {
        let flags = libc::O_WRONLY | libc::O_CLOEXEC;
        let path = c"/proc/self/oom_score_adj".as_ptr();
        // SAFETY: the path is a C string.
        if let Ok(fd) = call(unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags) }) {
            let text = score.as_bytes();
            // SAFETY: the text is valid for its length.
            let _ = call(unsafe { libc::syscall(libc::SYS_write, fd, text.as_ptr(), text.len()) });
            // SAFETY: no memory is involved, and the descriptor is ours.
            let _ = call(unsafe { libc::syscall(libc::SYS_close, fd) });
        }
    }
    if let Some(nice) = plan.nice {
        // SAFETY: no memory is involved; 0 is this process.
        let _ =
            call(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, c_int::from(nice)) });
    }
    if let Some(level) = plan.io_priority {
        let value = IOPRIO_CLASS_BEST_EFFORT | c_int::from(level);
        // SAFETY: no memory is involved; 0 is this process.
        let _ = call(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) });
    }
}

/// Set before the user changes, who may not raise limits. We may not be allowed to either; then what is below our own
/// limit has to do.
fn set_limits(plan: &Plan) {
    let Some(files) = plan.open_files else { return };
    let (null, read_only) = (std::ptr::null_mut::<libc::rlimit64>(), std::ptr::null::<libc::rlimit64>());
    let wanted = libc::rlimit64 { rlim_cur: files.soft, rlim_max: files.hard };
    // SAFETY: the structure is what the kernel reads; 0 is this process.
    let set = |limit: &libc::rlimit64| unsafe {
        call(libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, std::ptr::from_ref(limit), null))
    };
    if set(&wanted).is_ok() {
        return;
    }
    let mut ours = wanted;
    // SAFETY: the structure is what the kernel writes; 0 is this process.
    let known =
        call(unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, read_only, &raw mut ours) });
    if known.is_ok() {
        let _ =
            set(&libc::rlimit64 { rlim_cur: wanted.rlim_cur.min(ours.rlim_max), rlim_max: ours.rlim_max });
    }
}

/// Groups first, the user last: after that nothing may be changed any more. The system calls themselves, not the C
/// library's functions, which would change all threads of the process whose memory this is.
fn become_user(plan: &Plan) -> Result<(), i32> {
    let Some(user) = &plan.credentials else { return Ok(()) };
    // SAFETY: the list is valid for its length.
    call(unsafe { libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) })?;
    // SAFETY: no memory is involved.
    call(unsafe { libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid) })?;
    // SAFETY: no memory is involved.
    call(unsafe { libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid) })?;
    Ok(())
}

/// Tries each place in turn. Returns only when none worked, with the error that says most.
fn execute(plan: &Plan) -> i32 {
    let mut result = libc::ENOENT;
    for candidate in &plan.candidates {
        let exec = |path: *const libc::c_char, argv: *const *const libc::c_char| {
            // SAFETY: the path is a C string, the vectors end with null pointers.
            call(unsafe { libc::syscall(libc::SYS_execve, path, argv, plan.envp.as_ptr()) })
        };
        let Err(mut errno) = exec(candidate.path.as_ptr(), plan.argv.as_ptr()) else { continue };
        if errno == libc::ENOEXEC
            && let Err(shell) = exec(plan.shell.as_ptr(), candidate.script_argv.as_ptr())
        {
            errno = shell;
        }
        match errno {
            libc::ENOENT | libc::ENOTDIR => {}
            libc::EACCES => result = errno,
            _ => return errno,
        }
    }
    result
}

/// The result of a system call.
fn call(result: c_long) -> Result<c_long, i32> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: the location is valid in every thread. The child uses that of the thread that waits for it.
    Err(unsafe { *libc::__errno_location() })
}

fn exit(code: c_int) -> ! {
    loop {
        // SAFETY: ends the process, without any of the handlers that belong to the parent.
        unsafe { libc::syscall(libc::SYS_exit_group, code) };
    }
}
