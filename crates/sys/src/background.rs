//! Work that has time.

use std::io;

/// What the kernel's I/O schedulers know as idle: served when nobody else wants the disk.
const IOPRIO_CLASS_IDLE: libc::c_int = 3;
/// Where the class is in a priority.
const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
/// The priority is one of a thread.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
/// Ask for as little of the processors as can be.
const NICEST: libc::c_int = 19;

/// Has the calling thread, and no other, use processors and disks only as far as nobody else wants them. There is no way
/// back without privileges: for threads that end when their work is done.
///
/// # Errors
/// When the kernel refuses; the thread may have one of the two priorities then.
pub fn this_thread() -> io::Result<()> {
    // SAFETY: takes numbers only. In Linux, the zero is the calling thread and not its process.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let priority = IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT;
    // SAFETY: takes numbers only; the zero is the calling thread.
    match unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nice value of the calling thread: the 17th field after the name, which is in parentheses.
    fn nice() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn only_the_calling_thread_steps_back() {
        let before = nice();
        std::thread::spawn(|| {
            this_thread().unwrap();
            assert_eq!(nice(), NICEST);
        })
        .join()
        .unwrap();
        assert_eq!(nice(), before);
    }
}
