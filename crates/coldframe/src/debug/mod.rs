//! `coldframe sandbox debug`: gdb in the kernel of a sandbox that runs.
//!
//! ```text
//! launch file: which kernel ─> its symbols, by build id ─> script for gdb ─> supervisor lets debuggers in ─> gdb ─> cut off
//! ```
//!
//! Whoever may do it is an operator: the sandbox's socket is in the state directory, which only its owner can enter, and no
//! API key is asked for or of any use. The supervisor lets debuggers in as long as this process is connected to it, so
//! however this ends, the sandbox runs on.

mod kernel;
mod script;
mod symbols;

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use control::{Client, ClientError, DEBUGGER_FILE, Launch, Start};
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::cli;
use crate::state::StateDir;
use kernel::Kernel;
use script::Script;

/// The exit status of whoever was to become a program that there is not.
const NO_PROGRAM: i32 = 127;

pub(crate) fn run(options: &cli::Debug) -> Outcome {
    let state = StateDir::open(&options.state.dir)?;
    let dir = state.sandboxes().join(options.id.as_str());
    let launch = Launch::read(&dir).map_err(|error| {
        format!(
            "sandbox {} does not run here: {error}; `coldframe sandbox list` shows those that do",
            options.id
        )
    })?;
    let kernel = Kernel::read(&kernel_of(&state, &launch)?)?;
    let symbols = symbols::find(options.gdb_symbols.as_deref(), &state, &kernel)?;
    let socket = dir.join(DEBUGGER_FILE);
    let cache = state.root().join("cache/gdb");
    let script = Script::write(&std::env::temp_dir(), &cache, &symbols.path, &socket)
        .map_err(|error| format!("writing a script for gdb: {error}"))?;
    eprintln!("sandbox   {}", options.id);
    if let Some(build) = launch.start.build() {
        eprintln!("build     {build}");
    }
    eprintln!("kernel    {} (build id {})", kernel.path.display(), kernel.build_id);
    eprintln!("symbols   {} ({})", symbols.path.display(), symbols.origin);
    eprintln!("socket    {}", socket.display());
    eprintln!("by hand   gdb -x {} while this runs", script.path().display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(session(&dir, &script, options))
}

/// The kernel that the guest runs.
fn kernel_of(state: &StateDir, launch: &Launch) -> Result<PathBuf, String> {
    match &launch.start {
        Start::Boot(files) => Ok(files.kernel.clone()),
        Start::Reboot(reboot) => Ok(reboot.kernel.clone()),
        Start::Resume(build) => {
            let store = artifacts::LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
            let manifest = artifacts::load_manifest(&store, build).map_err(|error| error.to_string())?;
            let boot =
                manifest.boot.ok_or_else(|| format!("build {build} does not say which kernel it runs"))?;
            Ok(boot.kernel.into())
        }
    }
}

/// Runs gdb for as long as the sandbox lets it in.
async fn session(dir: &Path, script: &Script, options: &cli::Debug) -> Outcome {
    // gdb has the terminal: what is typed at it interrupts the guest, not us.
    let mut interrupts = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let mut ends = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut debugging = Client::new(dir).debugger().await.map_err(|error| match error {
        ClientError::Dead { .. } => format!("sandbox {} does not run here any more", options.id),
        ClientError::Refused { message, .. } => format!("sandbox {}: {message}", options.id),
        error => error.to_string(),
    })?;
    // Without us it would be a debugger of nothing that holds the terminal.
    let mut gdb = tokio::process::Command::new("setpriv");
    gdb.args(["--pdeathsig", "KILL", "gdb", "-nx", "-q", "-x"]).arg(script.path()).kill_on_drop(true);
    for path in &options.gdb_script {
        gdb.arg("-x").arg(path);
    }
    for command in &options.gdb_exec {
        gdb.arg("-ex").arg(command);
    }
    if !(options.gdb_exec.is_empty() && options.gdb_script.is_empty()) {
        gdb.arg("-batch").stdin(std::process::Stdio::null());
    }
    let mut gdb = gdb
        .spawn()
        .map_err(|error| format!("running setpriv: {error}; it is in the Debian package util-linux"))?;
    loop {
        tokio::select! {
            ended = gdb.wait() => {
                let status = ended.map_err(|error| format!("waiting for gdb: {error}"))?;
                if let Some(signal) = status.signal() {
                    return Err(format!("gdb was ended by signal {signal}; the sandbox runs on"));
                }
                if status.code() == Some(NO_PROGRAM) {
                    return Err("gdb cannot be run; it is in the Debian package gdb".into());
                }
                return Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from));
            }
            () = debugging.ended() => return Err(format!("sandbox {} has ended", options.id)),
            _ = ends.recv() => return Err("terminated; the sandbox runs on".into()),
            _ = interrupts.recv() => {}
        }
    }
}
