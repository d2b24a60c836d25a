//! Everything the child needs, laid out in memory before it exists.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;

use rustix::io::fcntl_dupfd_cloexec;

use super::{Credentials, OpenFiles, Request, SpawnError, Stage};

/// Where programs are looked up when the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What runs a script without an interpreter line.
const SHELL: &str = "/bin/sh";
/// The first descriptor that is not one of the standard three.
const FIRST_FREE_FD: i32 = 3;

/// A vector of C strings, ended by a null pointer, as exec wants it.
pub(super) struct StringVec {
    /// Keeps alive what the pointers point to. Moving a `CString` does not move its bytes.
    _strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl StringVec {
    fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { _strings: strings, pointers }
    }

    /// The vector as exec wants it.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// A place where the program may be.
pub(super) struct Candidate {
    /// The path to execute.
    pub(super) path: CString,
    /// The arguments for running it as a shell script.
    pub(super) script_argv: StringVec,
}

/// Everything the child needs.
pub(super) struct Plan {
    pub(super) candidates: Vec<Candidate>,
    pub(super) argv: StringVec,
    pub(super) envp: StringVec,
    pub(super) shell: CString,
    pub(super) cwd: CString,
    pub(super) credentials: Option<Credentials>,
    pub(super) stdio: [OwnedFd; 3],
    pub(super) controlling_terminal: bool,
    pub(super) oom_score_adj: Option<CString>,
    pub(super) nice: Option<i8>,
    pub(super) io_priority: Option<u8>,
    pub(super) open_files: Option<OpenFiles>,
    pub(super) cgroup: Option<Arc<OwnedFd>>,
    /// What to print when there is no such program, and when it cannot be executed.
    pub(super) not_found: Vec<u8>,
    pub(super) not_executable: Vec<u8>,
}

impl Plan {
    pub(super) fn new(request: Request) -> Result<Self, SpawnError> {
        let mut env: Vec<(OsString, OsString)> = Vec::with_capacity(request.env.len());
        for (name, value) in request.env {
            match env.iter_mut().find(|(known, _)| *known == name) {
                Some((_, old)) => *old = value,
                None => env.push((name, value)),
            }
        }
        let search = env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
        let program = c_string(request.program)?;
        let args = request.args.into_iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
        let candidates = locations(program.as_bytes(), search)
            .into_iter()
            .map(|path| {
                let path = CString::new(path).map_err(nul)?;
                let shell = CString::new(SHELL).map_err(nul)?;
                let script = [shell, path.clone()].into_iter().chain(args.iter().cloned()).collect();
                Ok(Candidate { path, script_argv: StringVec::new(script) })
            })
            .collect::<Result<_, _>>()?;
        let message = |reason: &str| {
            let mut text = b"sh: exec: ".to_vec();
            text.extend_from_slice(program.as_bytes());
            text.extend_from_slice(reason.as_bytes());
            text
        };
        Ok(Self {
            not_found: message(": not found\n"),
            not_executable: message(": Permission denied\n"),
            candidates,
            argv: StringVec::new([program].into_iter().chain(args).collect()),
            envp: StringVec::new(env.into_iter().map(variable).collect::<Result<_, _>>()?),
            shell: CString::new(SHELL).map_err(nul)?,
            cwd: c_string(request.cwd.into_os_string())?,
            credentials: request.credentials,
            stdio: [
                above_standard(request.stdin)?,
                above_standard(request.stdout)?,
                above_standard(request.stderr)?,
            ],
            controlling_terminal: request.controlling_terminal,
            oom_score_adj: request
                .oom_score_adj
                .map(|score| CString::new(score.to_string()).map_err(nul))
                .transpose()?,
            nice: request.nice,
            io_priority: request.io_priority,
            open_files: request.open_files,
            cgroup: request.cgroup,
        })
    }
}

/// Where to look for a program: where it says when it holds a slash, else in each directory of the search path.
fn locations(program: &[u8], search: Option<&OsStr>) -> Vec<Vec<u8>> {
    if program.is_empty() {
        return Vec::new();
    }
    if program.contains(&b'/') {
        return vec![program.to_vec()];
    }
    let search = search.map_or(DEFAULT_PATH.as_bytes(), OsStr::as_bytes);
    let in_directory = |directory: &[u8]| {
        // An empty entry is the current directory.
        let mut path = if directory.is_empty() { b".".to_vec() } else { directory.to_vec() };
        path.push(b'/');
        path.extend_from_slice(program);
        path
    };
    search.split(|byte| *byte == b':').map(in_directory).collect()
}

fn variable((name, value): (OsString, OsString)) -> Result<CString, SpawnError> {
    let mut text = name.into_vec();
    text.push(b'=');
    text.extend_from_slice(value.as_bytes());
    CString::new(text).map_err(nul)
}

fn c_string(text: OsString) -> Result<CString, SpawnError> {
    CString::new(text.into_vec()).map_err(nul)
}

fn nul(error: std::ffi::NulError) -> SpawnError {
    SpawnError { stage: Stage::Arguments, error: io::Error::new(io::ErrorKind::InvalidInput, error) }
}

/// Moves a descriptor out of the way of 0, 1 and 2, so that putting one of the three in place cannot close another.
fn above_standard(fd: OwnedFd) -> Result<OwnedFd, SpawnError> {
    if fd.as_raw_fd() >= FIRST_FREE_FD {
        return Ok(fd);
    }
    fcntl_dupfd_cloexec(fd.as_fd(), FIRST_FREE_FD)
        .map_err(|error| SpawnError { stage: Stage::Descriptors, error: error.into() })
}
