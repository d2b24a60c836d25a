//! Part of `coldframe bench envd`: what starting a program costs without a daemon, everything else being equal.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions, waitid};
use sys::spawn::{Credentials, OpenFiles, Request};

/// Starts a program as the daemon does for root, with its pipes and all that it sets, and waits for the end of both.
pub(super) fn equally(program: &str) -> io::Result<Duration> {
    let begun = Instant::now();
    let ((mut output, stdout), (mut errors, stderr)) = (io::pipe()?, io::pipe()?);
    let spawned = sys::spawn::spawn(Request {
        program: program.into(),
        args: Vec::new(),
        env: vec![(OsString::from("PATH"), OsString::from("/usr/bin:/bin"))],
        cwd: "/".into(),
        credentials: Some(Credentials { uid: 0, gid: 0, groups: vec![0] }),
        stdin: File::open("/dev/null")?.into(),
        stdout: stdout.into(),
        stderr: stderr.into(),
        controlling_terminal: false,
        oom_score_adj: Some(100),
        nice: Some(0),
        io_priority: Some(4),
        open_files: Some(OpenFiles { soft: 1024, hard: 524_288 }),
        cgroup: None,
    })
    .map_err(io::Error::other)?;
    for pipe in [&mut output, &mut errors] {
        io::copy(pipe, &mut io::sink())?;
    }
    waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    Ok(begun.elapsed())
}
