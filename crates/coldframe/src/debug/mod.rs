//! gdb in the kernel of a guest: of a sandbox that runs (`coldframe sandbox debug`), or of a machine that is held as it was in
//! a build (`coldframe build resume --gdb`).
//!
//! ```text
//! which kernel ─> its symbols, by build id ─> script for gdb ─> supervisor lets debuggers in ─> gdb ─> cut off
//! ```
//!
//! Whoever may do it is an operator: the socket is in the state directory, which only its owner can enter, and no API key is
//! asked for or of any use. The supervisor lets debuggers in as long as this process is connected to it, so however this
//! ends, the machine is not left standing still.

mod fetch;
mod kernel;
mod script;
mod symbols;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use control::{Client, ClientError, DEBUGGER_FILE, Debugging, Launch, Start};
use model::BuildId;
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::cli::{Debug, Gdb};
use crate::state::StateDir;
use kernel::Kernel;
use script::Script;
use symbols::Symbols;

/// The exit status of whoever was to become a program that there is not.
const NO_PROGRAM: i32 = 127;

pub(crate) fn run(options: &Debug) -> Outcome {
    let state = StateDir::open(&options.state.dir)?;
    let dir = state.sandboxes().join(options.id.as_str());
    let launch = Launch::read(&dir).map_err(|error| {
        format!(
            "sandbox {} does not run here: {error}; `coldframe sandbox list` shows those that do",
            options.id
        )
    })?;
    let debugger = Debugger::new(&state, &kernel_of(&state, &launch)?, &options.gdb)?;
    let guest = Guest { name: format!("sandbox {}", options.id), afterwards: "the sandbox runs on" };
    eprintln!("sandbox   {}", options.id);
    if let Some(build) = launch.start.build() {
        eprintln!("build     {build}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    runtime.block_on(async { debugger.connect(&dir, &guest).await?.session().await })
}

/// The kernel that the guest runs.
fn kernel_of(state: &StateDir, launch: &Launch) -> Result<PathBuf, String> {
    match &launch.start {
        Start::Boot(files) => Ok(files.kernel.clone()),
        Start::Reboot(reboot) => Ok(reboot.kernel.clone()),
        Start::Resume(build) => {
            let store = artifacts::LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
            let manifest = artifacts::load_manifest(&store, build).map_err(|error| error.to_string())?;
            kernel_in(build, manifest.boot)
        }
    }
}

/// The kernel of a machine that goes on from a build.
pub(crate) fn kernel_in(build: &BuildId, boot: Option<build::BootFiles>) -> Result<PathBuf, String> {
    let boot = boot.ok_or_else(|| format!("build {build} does not say which kernel it runs"))?;
    Ok(boot.kernel.into())
}

/// Whom gdb is for.
#[derive(Debug)]
pub(crate) struct Guest {
    /// What it is called in errors.
    pub(crate) name: String,
    /// What becomes of it.
    pub(crate) afterwards: &'static str,
}

/// All that gdb is told of a kernel.
#[derive(Debug)]
pub(crate) struct Debugger<'a> {
    kernel: Kernel,
    symbols: Symbols,
    /// What gdb found out about symbols before.
    cache: PathBuf,
    told: &'a Gdb,
}

impl<'a> Debugger<'a> {
    /// Finds the symbols, which may have to come from somewhere.
    pub(crate) fn new(state: &StateDir, kernel: &Path, told: &'a Gdb) -> Result<Self, String> {
        let kernel = Kernel::read(kernel)?;
        let symbols = symbols::find(told.symbols.as_deref(), state, &kernel)?;
        Ok(Self { kernel, symbols, cache: state.root().join("cache/gdb"), told })
    }

    /// Has the supervisor of the directory `dir` let gdb in.
    pub(crate) async fn connect<'b>(&'b self, dir: &Path, guest: &'b Guest) -> Result<Connected<'b>, String> {
        let script = self.script(&dir.join(DEBUGGER_FILE))?;
        let debugging = Client::new(dir).debugger().await.map_err(|error| match error {
            // One that is about to go may cut us off.
            ClientError::Dead { .. } | ClientError::Broken(_) => {
                format!("{} does not run here any more", guest.name)
            }
            ClientError::Refused { message, .. } => format!("{}: {message}", guest.name),
            error => error.to_string(),
        })?;
        Ok(Connected { debugger: self, guest, script, debugging })
    }

    /// Writes what gdb is told first, and says how to do the same by hand.
    fn script(&self, socket: &Path) -> Result<Script, String> {
        let failed = |error: &dyn std::fmt::Display| format!("writing a script for gdb: {error}");
        let macros = match &self.told.macros {
            None => None,
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .map_err(|error| format!("the macros in {}: {error}", path.display()))?,
            ),
        };
        let script =
            Script::write(&std::env::temp_dir(), &self.cache, &self.symbols.path, socket, macros.as_deref())
                .map_err(|error| failed(&error))?;
        let (kernel, symbols) = (&self.kernel, &self.symbols);
        eprintln!("kernel    {} (build id {})", kernel.path.display(), kernel.build_id);
        eprintln!("symbols   {} ({})", symbols.path.display(), symbols.origin);
        eprintln!("socket    {}", socket.display());
        eprintln!("by hand   gdb -x {} while this runs", script.path().display());
        Ok(script)
    }

    fn gdb(&self, script: &Script) -> tokio::process::Command {
        // Without us it would be a debugger of nothing that holds the terminal.
        let mut gdb = tokio::process::Command::new("setpriv");
        gdb.args(["--pdeathsig", "KILL", "gdb", "-nx", "-q", "-x"]).arg(script.path()).kill_on_drop(true);
        for path in &self.told.script {
            gdb.arg("-x").arg(path);
        }
        for command in &self.told.exec {
            gdb.arg("-ex").arg(command);
        }
        if !(self.told.exec.is_empty() && self.told.script.is_empty()) {
            gdb.arg("-batch").stdin(std::process::Stdio::null());
        }
        gdb
    }
}

/// A machine that lets gdb in.
#[derive(Debug)]
pub(crate) struct Connected<'a> {
    debugger: &'a Debugger<'a>,
    guest: &'a Guest,
    script: Script,
    debugging: Debugging,
}

impl Connected<'_> {
    /// Runs gdb for as long as it is let in.
    pub(crate) async fn session(mut self) -> Outcome {
        let guest = self.guest;
        // gdb has the terminal: what is typed at it interrupts the guest, not us.
        let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
        let mut ends = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let mut gdb =
            self.debugger.gdb(&self.script).spawn().map_err(|error| {
                format!("running setpriv: {error}; it is in the Debian package util-linux")
            })?;
        loop {
            tokio::select! {
                ended = gdb.wait() => {
                    let status = ended.map_err(|error| format!("waiting for gdb: {error}"))?;
                    if let Some(signal) = status.signal() {
                        return Err(format!("gdb was ended by signal {signal}; {}", guest.afterwards));
                    }
                    if status.code() == Some(NO_PROGRAM) {
                        return Err("gdb cannot be run; it is in the Debian package gdb".into());
                    }
                    let code = status.code().and_then(|code| u8::try_from(code).ok());
                    return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
                }
                () = self.debugging.ended() => return Err(format!("{} has ended", guest.name)),
                _ = ends.recv() => return Err(format!("terminated; {}", guest.afterwards)),
                _ = interrupts.recv() => {}
            }
        }
    }
}
