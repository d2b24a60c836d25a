//! Makes the child and waits until it no longer needs our memory.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;

use nix::libc;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::child::{self, Context, Report};
use super::plan::Plan;
use super::{SpawnError, Spawned, Stage};

/// Size of the child's stack in bytes. The child calls a handful of functions, none of them recursive, with frames of
/// some hundred bytes.
const STACK_BYTES: usize = 64 << 10;
/// Size of the kernel's signal set in bytes.
const SIGSET_BYTES: usize = 8;
/// Flags of `clone3` beyond 32 bits, which the C library's bindings cut off. From `linux/sched.h`.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts the child that the plan describes.
pub(super) fn start(plan: &Plan) -> Result<Spawned, SpawnError> {
    let failed = |error: io::Error| SpawnError { stage: Stage::Clone, error };
    let arena = Arena::new().map_err(failed)?;
    let context = Context { plan, report: arena.report() };
    // A signal handler must not run in the child: it would change our memory as if it were the parent.
    let signals = BlockedSignals::new();
    let mut pidfd: RawFd = -1;
    let mut cloned = clone(&context, &arena, plan.cgroup.as_ref().map(|group| group.as_raw_fd()), &mut pidfd);
    if plan.cgroup.is_some() && cloned.is_err() {
        // Whoever is root in the same system may have removed the group, or made it one that takes no processes.
        cloned = clone(&context, &arena, None, &mut pidfd);
    }
    drop(signals);
    let pid = cloned.map_err(failed)?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    match arena.report().failure() {
        None => Ok(Spawned { pid, pidfd }),
        Some((stage, errno)) => {
            // It has ended, or is about to: nothing else comes after a report.
            let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
            Err(SpawnError { stage, error: io::Error::from_raw_os_error(errno) })
        }
    }
}

/// The child's stack, and below it the place for its report. Shared, so that a child with its own copy of our memory can
/// report as well.
struct Arena {
    base: NonNull<libc::c_void>,
}

impl Arena {
    const BYTES: usize = STACK_BYTES + 4096;

    fn new() -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping wherever there is room disturbs nobody.
        let base =
            unsafe { mmap_anonymous(std::ptr::null_mut(), Self::BYTES, protection, MapFlags::SHARED) }?;
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the mapping is large enough, aligned to a page, and ours alone.
        unsafe { base.cast::<Report>().write(Report::new()) };
        Ok(Self { base })
    }

    fn report(&self) -> &Report {
        // SAFETY: written in `new`, and mapped for as long as `self` lives. Its fields are atomic.
        unsafe { self.base.cast::<Report>().as_ref() }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size. The child has left it: clone returns only then.
        let _ = unsafe { munmap(self.base.as_ptr(), Self::BYTES) };
    }
}

/// Keeps all signals from this thread, those of the C library included.
struct BlockedSignals {
    before: u64,
}

impl BlockedSignals {
    fn new() -> Self {
        let mut before = 0_u64;
        let all = u64::MAX;
        // SAFETY: both sets have the size that is given.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const all,
                &raw mut before,
                SIGSET_BYTES,
            )
        };
        Self { before }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: the set has the size that is given.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const self.before,
                none,
                SIGSET_BYTES,
            )
        };
    }
}

#[allow(clippy::cast_sign_loss, reason = "flags are bits, and the two numbers are known to be positive")]
fn clone(context: &Context<'_>, arena: &Arena, cgroup: Option<RawFd>, pidfd: &mut RawFd) -> io::Result<u32> {
    let share_memory = cfg!(target_arch = "x86_64");
    // SAFETY: all zero is a valid value: nothing is asked for.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = std::ptr::from_mut(pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    if share_memory {
        args.flags |= libc::CLONE_VM as u64;
        args.stack = arena.base.as_ptr() as u64 + (Arena::BYTES - STACK_BYTES) as u64;
        args.stack_size = STACK_BYTES as u64;
    }
    // SAFETY: the arguments are valid, and the context outlives the child's use of it: with CLONE_VFORK the call
    // returns only when the child has executed or ended.
    let result = unsafe { clone3(&args, context) };
    match u32::try_from(result) {
        Ok(pid) => Ok(pid),
        Err(_) => Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EINVAL))),
    }
}

/// Makes the system call. In the child it does not return; in the parent it returns the id or a negative error number.
///
/// # Safety
/// The arguments must ask for `CLONE_VFORK` and give the child a stack; the context must outlive the call.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3(args: &libc::clone_args, context: &Context<'_>) -> i64 {
    let result: i64;
    // SAFETY: the child comes out of the system call on its own stack with nothing on it, so it must not return and
    // does not: it calls `main`, which never ends. The stack's top is aligned to 16 bytes, as a call wants it. The
    // parent goes on as after any system call, which changes rax, rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, {context}",
            "call {main}",
            "ud2",
            "2:",
            context = in(reg) std::ptr::from_ref(context),
            main = in(reg) child::main as unsafe extern "C" fn(*const Context<'_>) -> !,
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<libc::clone_args>(),
            out("rcx") _,
            out("r11") _,
        );
    }
    result
}

/// Makes the system call. In the child it does not return; in the parent it returns the id or a negative error number.
///
/// # Safety
/// The arguments must ask for `CLONE_VFORK` and not for `CLONE_VM`; the context must outlive the call.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn clone3(args: &libc::clone_args, context: &Context<'_>) -> i64 {
    // SAFETY: the child has its own copy of our memory and of this stack, as after fork.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(args), size_of::<libc::clone_args>()) };
    match result {
        // SAFETY: this is the new process, and the context is in its copy of our memory.
        0 => unsafe { child::main(context) },
        // SAFETY: the location is valid in every thread.
        -1 => -i64::from(unsafe { *libc::__errno_location() }),
        pid => pid,
    }
}
