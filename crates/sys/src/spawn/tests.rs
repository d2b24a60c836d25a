//! Against the real kernel. They run as root, as the daemon does.

use std::ffi::OsString;
use std::fs::{File, Permissions};
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::{Credentials, OpenFiles, Request, SpawnError, Stage, spawn};

const NOBODY: Credentials = Credentials { uid: 65534, gid: 65534, groups: Vec::new() };

struct Run {
    request: Request,
    output: File,
}

fn run(program: &str, args: &[&str]) -> Run {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let null: OwnedFd = File::open("/dev/null").unwrap().into();
    Run {
        request: Request {
            program: program.into(),
            args: args.iter().map(OsString::from).collect(),
            env: vec![
                ("PATH".into(), "/usr/bin:/bin".into()),
                ("A".into(), "1".into()),
                ("A".into(), "2".into()),
            ],
            cwd: "/".into(),
            credentials: None,
            stdin: null,
            stdout: writer.try_clone().unwrap(),
            stderr: writer,
            controlling_terminal: false,
            oom_score_adj: None,
            nice: None,
            io_priority: None,
            open_files: None,
            cgroup: None,
        },
        output: reader.into(),
    }
}

impl Run {
    fn finish(mut self) -> Result<(String, i32), SpawnError> {
        let spawned = spawn(self.request)?;
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        let status = waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
        Ok((text, status.exit_status().unwrap_or(-1)))
    }
}

#[test]
fn a_program_runs_with_its_arguments_and_environment() {
    let (text, code) = run("sh", &["-c", "echo $0 $1 $A; pwd; umask; exit 7", "x", "y z"]).finish().unwrap();
    assert_eq!((text.as_str(), code), ("x y z 2\n/\n0022\n", 7));
}

#[test]
fn the_child_becomes_the_user_with_its_groups() {
    let mut run = run("sh", &["-c", "id -u; id -g; id -G; grep SigBlk /proc/self/status; ls /proc/self/fd"]);
    run.request.credentials = Some(Credentials { groups: vec![65534, 4, 27], ..NOBODY });
    let (text, code) = run.finish().unwrap();
    assert_eq!(code, 0, "{text}");
    // Descriptor 3 is the one with which ls reads the directory.
    assert_eq!(text, "65534\n65534\n65534 4 27\nSigBlk:\t0000000000000000\n0\n1\n2\n3\n");
    assert_eq!(rustix::process::getuid().as_raw(), 0, "the parent stays who it is");
}

#[test]
fn a_broken_pipe_ends_the_child() {
    // Rust programs ignore SIGPIPE; what they start must not.
    let (text, _) = run("grep", &["SigIgn", "/proc/self/status"]).finish().unwrap();
    let ignored = u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    assert_eq!(ignored & (1 << (nix::libc::SIGPIPE - 1)), 0, "{text}");
}

#[test]
fn priorities_are_the_child_s_own() {
    let before = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    let mut run = run("sh", &["-c", "cat /proc/self/oom_score_adj; nice"]);
    run.request.oom_score_adj = Some(123);
    run.request.nice = Some(5);
    run.request.io_priority = Some(4);
    assert_eq!(run.finish().unwrap().0, "123\n5\n");
    assert_eq!(std::fs::read_to_string("/proc/self/oom_score_adj").unwrap(), before);
}

#[test]
fn limits_are_the_child_s_own() {
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let mut run = run("sh", &["-c", "ulimit -Sn; ulimit -Hn"]);
    run.request.open_files = Some(OpenFiles { soft: 100, hard: 200 });
    assert_eq!(run.finish().unwrap().0, "100\n200\n");
    assert_eq!(rustix::process::getrlimit(rustix::process::Resource::Nofile), before);
}

#[test]
fn the_child_is_born_in_its_cgroup() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let root = mounts.find(|fields| fields[2] == "cgroup2").expect("a cgroup2 hierarchy")[1].to_owned();
    let name = format!("sys-spawn-test-{}", std::process::id());
    let group = std::path::Path::new(&root).join(&name);
    std::fs::create_dir(&group).unwrap();
    let mut run = run("sh", &["-c", "cat /proc/self/cgroup"]);
    run.request.cgroup = Some(Arc::new(File::open(&group).unwrap().into()));
    let result = run.finish();
    std::fs::remove_dir(&group).unwrap();
    let (text, _) = result.unwrap();
    assert!(text.lines().any(|line| line == format!("0::/{name}")), "{text}");
}

#[test]
fn without_its_cgroup_the_child_runs_nevertheless() {
    let mut run = run("echo", &["here"]);
    run.request.cgroup = Some(Arc::new(File::open("/").unwrap().into()));
    assert_eq!(run.finish().unwrap(), ("here\n".into(), 0));
}

#[test]
fn a_missing_program_ends_like_in_a_shell() {
    for (program, expected, code) in [
        ("no-such-program", "sh: exec: no-such-program: not found\n", 127),
        ("/no/such/program", "sh: exec: /no/such/program: not found\n", 127),
        ("", "sh: exec: : not found\n", 127),
        ("/etc/passwd", "sh: exec: /etc/passwd: Permission denied\n", 126),
        ("/tmp", "sh: exec: /tmp: Permission denied\n", 126),
    ] {
        assert_eq!(run(program, &[]).finish().unwrap(), (expected.into(), code), "{program:?}");
    }
}

#[test]
fn a_script_without_an_interpreter_line_runs_in_the_shell() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    std::fs::write(&script, "echo $1 from $(basename $0)\n").unwrap();
    std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let mut by_name = run("script", &["hello"]);
    by_name.request.env =
        vec![("PATH".into(), format!("/nowhere:{}:/usr/bin:/bin", directory.path().display()).into())];
    assert_eq!(by_name.finish().unwrap(), ("hello from script\n".into(), 0));
}

#[test]
fn what_cannot_be_set_up_is_an_error_with_its_stage() {
    let stage = |run: Run| {
        let error = run.finish().unwrap_err();
        (error.stage, error.error.raw_os_error())
    };
    let mut gone = run("true", &[]);
    gone.request.cwd = "/no/such/directory".into();
    assert_eq!(stage(gone), (Stage::Directory, Some(nix::libc::ENOENT)));

    let private = tempfile::tempdir().unwrap();
    std::fs::set_permissions(private.path(), Permissions::from_mode(0o700)).unwrap();
    let mut forbidden = run("true", &[]);
    forbidden.request.cwd = private.path().into();
    forbidden.request.credentials = Some(NOBODY);
    assert_eq!(stage(forbidden), (Stage::Directory, Some(nix::libc::EACCES)));

    let mut no_terminal = run("true", &[]);
    no_terminal.request.controlling_terminal = true;
    assert_eq!(stage(no_terminal), (Stage::Terminal, Some(nix::libc::ENOTTY)));

    assert_eq!(stage(run("true", &["a\0b"])), (Stage::Arguments, None));
}

#[test]
fn many_threads_may_spawn_at_once() {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for turn in 0..20 {
                    let word = format!("{thread}-{turn}");
                    assert_eq!(run("echo", &[&word]).finish().unwrap(), (format!("{word}\n"), 0));
                }
            });
        }
    });
}
