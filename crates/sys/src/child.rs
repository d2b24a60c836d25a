//! What a child process does to itself between `fork` and `exec`.
//!
//! File descriptors are passed by the crate `command-fds`. Call [`prepare`] *before* its functions: closures run in the
//! order in which they were added, and a mapping may land on the number of the control group file.
//!
//! The kernel sends the parent-death signal when the *thread* that forked ends, not when its process does. A pool may
//! end its threads at any time, so a child that should live as long as this process is started with [`spawn_lasting`].

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::process::{
    Gid, Resource, Rlimit, Signal, Uid, getpid, getppid, set_parent_process_death_signal, setrlimit, setsid,
};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// How a child differs from a plain one. The default changes nothing.
#[derive(Debug, Default)]
pub struct ChildSetup {
    /// The child gets SIGKILL when the thread that started it ends; see [`spawn_lasting`].
    pub die_with_parent: bool,
    /// The child leads a new session, so that signals for our terminal do not reach it.
    pub new_session: bool,
    /// Neither the child nor its descendants can gain privileges by executing a file.
    pub no_new_privs: bool,
    /// The child leaves no core file when it crashes: it may hold secrets of others.
    pub no_core_dump: bool,
    /// The user and group that the child becomes. It keeps no supplementary group.
    pub user: Option<(u32, u32)>,
    /// An open `cgroup.procs`: the child moves itself into that group, so nothing it does is accounted elsewhere.
    pub cgroup_procs: Option<OwnedFd>,
}

/// Makes every child that `command` starts set itself up as `setup` says, before the program runs.
///
/// When a step fails, `spawn` returns its error and the program does not run.
pub fn prepare(command: &mut Command, setup: ChildSetup) {
    let parent = getpid();
    let apply = move || {
        if let Some(procs) = &setup.cgroup_procs {
            // "0" means the writer. Done first: the new user may not be allowed to.
            rustix::io::write(procs, b"0")?;
        }
        if setup.new_session {
            setsid()?;
        }
        if setup.no_core_dump {
            setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        }
        if let Some((uid, gid)) = setup.user {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            set_thread_groups(&[])?;
            set_thread_res_gid(gid, gid, gid)?;
            set_thread_res_uid(uid, uid, uid)?;
        }
        if setup.no_new_privs {
            set_no_new_privs(true)?;
        }
        if setup.die_with_parent {
            // After the change of user, which clears it.
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // A parent that was already gone sends nothing: we have a new parent then.
            if getppid() != Some(parent) {
                return Err(io::Error::from(rustix::io::Errno::SRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure runs in a forked copy of a threaded process, where only async-signal-safe work is allowed. It
    // makes system calls and nothing else: it neither allocates nor takes a lock, `io::Error` from an errno is a plain
    // value, and the calls that change credentials act on the calling thread, the only one there is after `fork`.
    unsafe {
        command.pre_exec(apply);
    }
}

type Request = (Command, Sender<io::Result<Child>>);

/// Starts `command` from a thread that lives as long as this process, which makes [`ChildSetup::die_with_parent`] mean
/// what its name says also on a runtime that retires threads.
///
/// The thread keeps the network and mount namespaces of the first caller; unless a process changes them for single
/// threads, they are those of the process.
///
/// # Errors
/// Those of [`Command::spawn`]: the program cannot be executed, or a step of [`prepare`] failed.
pub fn spawn_lasting(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Sender<Request>> = OnceLock::new();
    let starter = match STARTER.get() {
        Some(starter) => starter,
        None => {
            let (sender, requests) = channel::<Request>();
            thread::Builder::new().name("starter".into()).stack_size(256 << 10).spawn(move || {
                for (mut command, answer) in requests {
                    // A caller that went away drops the answer, and a `Child` that is dropped keeps running: callers
                    // that can be cancelled must wait for the answer on their own.
                    let _ = answer.send(command.spawn());
                }
            })?;
            // When two callers race, the loser's channel closes and its thread ends.
            STARTER.get_or_init(|| sender)
        }
    };
    let (answer, result) = channel();
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    starter.send((command, answer)).map_err(|e| gone(e.to_string()))?;
    result.recv().map_err(|e| gone(e.to_string()))?
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::process::Stdio;

    use super::*;

    fn status_of_child(setup: ChildSetup) -> String {
        let mut command = Command::new("cat");
        command.arg("/proc/self/status").stdout(Stdio::piped());
        prepare(&mut command, setup);
        let mut child = spawn_lasting(command).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        text
    }

    fn field<'a>(status: &'a str, name: &str) -> Vec<&'a str> {
        let line = status.lines().find(|l| l.starts_with(&format!("{name}:"))).unwrap();
        line.split_whitespace().skip(1).collect()
    }

    #[test]
    fn becomes_the_user_without_groups_or_new_privileges() {
        let status = status_of_child(ChildSetup {
            user: Some((4321, 4322)),
            no_new_privs: true,
            ..Default::default()
        });
        assert_eq!(field(&status, "Uid"), ["4321"; 4]);
        assert_eq!(field(&status, "Gid"), ["4322"; 4]);
        assert_eq!(field(&status, "Groups"), [""; 0]);
        assert_eq!(field(&status, "NoNewPrivs"), ["1"]);
        assert_eq!(field(&status, "CapEff"), ["0000000000000000"]);
    }

    #[test]
    fn leaves_no_core_file() {
        let mut command = Command::new("cat");
        command.arg("/proc/self/limits");
        prepare(&mut command, ChildSetup { no_core_dump: true, ..Default::default() });
        let limits = String::from_utf8(command.output().unwrap().stdout).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().skip(4).collect::<Vec<_>>(), ["0", "0", "bytes"]);
    }

    #[test]
    fn default_changes_nothing() {
        let status = status_of_child(ChildSetup::default());
        let own = std::fs::read_to_string("/proc/self/status").unwrap();
        for name in ["Uid", "Gid", "Groups", "NoNewPrivs"] {
            assert_eq!(field(&status, name), field(&own, name));
        }
    }

    #[test]
    fn writes_itself_into_the_control_group() {
        let mut file = tempfile::tempfile().unwrap();
        status_of_child(ChildSetup {
            cgroup_procs: Some(file.try_clone().unwrap().into()),
            ..Default::default()
        });
        std::io::Seek::rewind(&mut file).unwrap();
        let mut written = String::new();
        file.read_to_string(&mut written).unwrap();
        assert_eq!(written, "0");
    }

    #[test]
    fn a_step_that_fails_stops_the_program() {
        let read_only = File::open("/dev/null").unwrap();
        let mut command = Command::new("true");
        prepare(&mut command, ChildSetup { cgroup_procs: Some(read_only.into()), ..Default::default() });
        assert_eq!(command.spawn().unwrap_err().raw_os_error(), Some(rustix::io::Errno::BADF.raw_os_error()));
    }

    #[test]
    fn dies_with_its_parent_even_as_another_user() {
        // The parent is a thread that ends, which is what the kernel looks at.
        let mut child = thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("60");
            prepare(
                &mut command,
                ChildSetup {
                    die_with_parent: true,
                    new_session: true,
                    user: Some((4321, 4321)),
                    ..Default::default()
                },
            );
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    }

    #[test]
    fn a_lasting_child_outlives_the_thread_that_asked_for_it() {
        let mut child = thread::spawn(|| {
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped());
            prepare(&mut command, ChildSetup { die_with_parent: true, ..Default::default() });
            spawn_lasting(command).unwrap()
        })
        .join()
        .unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success(), "it ended by itself, not by a signal");
    }
}
