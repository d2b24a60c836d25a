//! Starts a program: who it is, where, with which variables and through which pipes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use connectrpc::ConnectError;
use envd_proto::process::{PTY, ProcessConfig, StartRequest};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use sys::readable::watch;
use sys::spawn::{Credentials, OpenFiles, Request, Spawned, Stage};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::event::Source;
use super::hub::Hub;
use super::input::Input;
use super::output::Output;
use super::running::{Parts, Process};
use super::{starters, terminal};
use crate::state::Envd;
use crate::user::{User, resolve_path};

/// Processes of the sandbox's user are the first to be killed when memory runs out; this daemon is the last.
const OOM_SCORE: i16 = 100;
/// The usual priorities, whatever ours are.
const NICE: i8 = 0;
const IO_PRIORITY: u8 = 4;
/// How many files a process may have open: what Debian gives to users. Ours is higher, see [`crate::server`].
const OPEN_FILES: OpenFiles = OpenFiles { soft: 1024, hard: 524_288 };
/// The name of processes that belong to the system rather than to the sandbox's user.
const SYSTEM_TAG: &str = "_system";
/// Where programs are looked up when we have not been told ourselves.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process that has just been started, and what it prints.
pub(super) struct Launched {
    pub(super) process: Arc<Process>,
    pub(super) outputs: Vec<Output>,
}

/// Starts a program. Who wants to hear all it prints has to have subscribed to the hub before.
///
/// # Errors
/// `invalid_argument` for what the request is to blame for, `internal` for all else.
pub(super) async fn launch(
    envd: &Envd,
    user: Arc<User>,
    request: StartRequest,
    hub: Arc<Hub>,
) -> Result<Launched, ConnectError> {
    let config = request.process.into_option().unwrap_or_default();
    let cwd = config.cwd.as_deref().unwrap_or_default();
    let cwd = resolve_path(cwd, &user, envd.default_workdir().as_deref())?;
    let cgroup = match (&request.tag, request.pty.is_set()) {
        (Some(tag), _) if tag == SYSTEM_TAG => None,
        (_, true) => envd.cgroups().terminals(),
        (_, false) => envd.cgroups().user(),
    };
    let stdio = if let Some(pty) = request.pty.as_option() {
        Stdio::terminal(pty, &user)
    } else {
        Stdio::pipes(request.stdin.unwrap_or(true))
    }
    .map_err(|error| ConnectError::internal(format!("error creating pipes: {error}")))?;
    let [stdin, stdout, stderr] = stdio.theirs;
    if cgroup.is_some() {
        // A child that is born among processes that stand still would hold the thread that makes it.
        envd.workload().running().await;
    }
    let spawned = start(Request {
        program: config.cmd.clone().into(),
        args: config.args.iter().map(OsString::from).collect(),
        env: environment(envd, &user, &config),
        cwd,
        credentials: credentials(&user),
        stdin,
        stdout,
        stderr,
        controlling_terminal: stdio.is_terminal,
        oom_score_adj: Some(OOM_SCORE),
        nice: Some(NICE),
        io_priority: Some(IO_PRIORITY),
        open_files: Some(OPEN_FILES),
        cgroup,
    })
    .await?;
    let process = Process::new(Parts {
        pid: spawned.pid,
        tag: request.tag,
        config,
        pidfd: spawned.pidfd,
        terminal: stdio.is_terminal.then(|| Arc::clone(&stdio.outputs[0].file)),
        input: stdio.input,
        hub,
    })
    .map_err(|error| ConnectError::internal(format!("error watching the process: {error}")))?;
    Ok(Launched { process: Arc::new(process), outputs: stdio.outputs })
}

/// Starts it on a thread that may block: entering directories and loading programs can wait for disks, networks, or a file
/// system of the guest that never answers.
async fn start(request: Request) -> Result<Spawned, ConnectError> {
    starters::run(move || {
        let cwd: PathBuf = request.cwd.clone();
        sys::spawn::spawn(request).map_err(|error| match error.stage {
            Stage::Clone | Stage::Descriptors | Stage::Terminal => {
                ConnectError::internal(format!("error starting process: {error}"))
            }
            Stage::Directory if error.error.kind() == ErrorKind::NotFound => {
                ConnectError::invalid_argument(format!("cwd '{}' does not exist", cwd.display()))
            }
            Stage::Directory => ConnectError::invalid_argument(format!(
                "error starting process: chdir {}: {}",
                cwd.display(),
                error.error
            )),
            Stage::Arguments | Stage::Credentials => {
                ConnectError::invalid_argument(format!("error starting process: {error}"))
            }
        })
    })
    .await
    .unwrap_or_else(|| Err(ConnectError::internal("error starting process: there is no thread to do it")))
}

/// Who to become. Nobody else when we already are that user and may not change: a daemon that is not root, in a test.
fn credentials(user: &User) -> Option<Credentials> {
    let ourselves = rustix::process::geteuid();
    (ourselves.is_root() || ourselves.as_raw() != user.uid).then(|| Credentials {
        uid: user.uid,
        gid: user.gid,
        groups: user.groups.clone(),
    })
}

/// The variables of a process. What the request says wins over what the sandbox says, and that over who the user is.
fn environment(envd: &Envd, user: &User, config: &ProcessConfig) -> Vec<(OsString, OsString)> {
    let mut variables: BTreeMap<OsString, OsString> = BTreeMap::from([
        ("PATH".into(), std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into())),
        ("HOME".into(), user.home.clone().into()),
        ("USER".into(), user.name.clone().into()),
        ("LOGNAME".into(), user.name.clone().into()),
    ]);
    variables.extend(envd.environment().into_iter().map(|(name, value)| (name.into(), value.into())));
    variables.extend(config.envs.iter().map(|(name, value)| (name.into(), value.into())));
    variables.into_iter().collect()
}

/// The ends of pipes or of a terminal.
struct Stdio {
    theirs: [OwnedFd; 3],
    input: Input,
    outputs: Vec<Output>,
    is_terminal: bool,
}

impl Stdio {
    fn pipes(with_stdin: bool) -> io::Result<Self> {
        let (stdin, input) = if with_stdin {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC)?;
            (theirs, Some(asynchronous(ours, OFlags::WRONLY, Interest::WRITABLE)?))
        } else {
            (File::open("/dev/null")?.into(), None)
        };
        let output = |source| {
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
            let file = Arc::new(asynchronous(ours, OFlags::RDONLY, Interest::READABLE)?);
            io::Result::Ok((Output { source, file }, theirs))
        };
        let (stdout, their_stdout) = output(Source::Stdout)?;
        let (stderr, their_stderr) = output(Source::Stderr)?;
        Ok(Self {
            theirs: [stdin, their_stdout, their_stderr],
            input: Input::pipe(input),
            outputs: vec![stdout, stderr],
            is_terminal: false,
        })
    }

    fn terminal(request: &PTY, user: &User) -> io::Result<Self> {
        let terminal = terminal::open(request, user)?;
        let ours = Arc::new(watch(terminal.ours, Interest::READABLE | Interest::WRITABLE)?);
        Ok(Self {
            theirs: [terminal.theirs.try_clone()?, terminal.theirs.try_clone()?, terminal.theirs],
            input: Input::terminal(Arc::clone(&ours)),
            outputs: vec![Output { source: Source::Terminal, file: ours }],
            is_terminal: true,
        })
    }
}

/// Our end of a pipe. Only ours must not block; theirs is what programs expect.
fn asynchronous(pipe: OwnedFd, access: OFlags, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    fcntl_setfl(&pipe, access | OFlags::NONBLOCK)?;
    watch(pipe, interest)
}
