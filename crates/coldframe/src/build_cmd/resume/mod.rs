//! `coldframe build resume`: a build goes on, in a machine of its own, by the code that a node runs, and without its server.
//!
//! ```text
//! build ─> workshop ─> machine ─┬─> shell or command ─> pause ─> build
//!                               ├─> gone again, so often
//!                               └─> gdb, which it is held for
//! ```
//! Whatever becomes of this command, nothing is left but a build that it has printed: see [`crate::workshop`].

mod iterations;
mod machine;
mod port;
mod process;

use std::process::ExitCode;

use artifacts::{LocalStore, load_manifest};
use tokio::signal::unix::{SignalKind, signal};

use super::names::{self, NewName};
use crate::Outcome;
use crate::cli::Resume;
use crate::debug::{Debugger, Guest, kernel_in};
use crate::state::StateDir;
use crate::workshop::Workshop;
use machine::Bench;

/// What shells do with the status of what a signal ended.
const INTERRUPTED: u8 = 130;

pub(super) fn run(options: &Resume) -> Outcome {
    refuse(options)?;
    let state = StateDir::open(&options.state.dir)?;
    let store = LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
    let build = names::find(&state, &store, &options.build)?;
    let manifest = load_manifest(&store, &build).map_err(|error| error.to_string())?;
    // Before anything is started: it may have to come from somewhere.
    let debugger = if options.gdb {
        Some(Debugger::new(&state, &kernel_in(&build, manifest.boot.clone())?, &options.told)?)
    } else {
        None
    };
    let mut workshop = Workshop::open(&state)?;
    // Dropped before the workshop: nothing is made any more when that is removed.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("starting the runtime: {error}"))?;
    let outcome = runtime.block_on(async {
        let bench = Bench::start(&state, &workshop, manifest, options).await?;
        let work = work(&state, &bench, debugger.as_ref(), options);
        tokio::select! {
            outcome = work => outcome,
            why = workshop.abandoned() => Err(why),
        }
    });
    // What is typed is waited for on a thread that cannot be interrupted.
    runtime.shutdown_background();
    outcome
}

/// What does not go together, and is not said by the rules of the options.
fn refuse(options: &Resume) -> Result<(), String> {
    let told = &options.told;
    let for_gdb = [
        ("--gdb-symbols", told.symbols.is_some()),
        ("--gdb-macros", told.macros.is_some()),
        ("--gdb-exec", !told.exec.is_empty()),
        ("--gdb-script", !told.script.is_empty()),
    ];
    match for_gdb.into_iter().find(|(_, given)| *given && !options.gdb) {
        Some((name, _)) => Err(format!("{name} is for --gdb")),
        None => Ok(()),
    }
}

async fn work(state: &StateDir, bench: &Bench, debugger: Option<&Debugger<'_>>, options: &Resume) -> Outcome {
    if let Some(debugger) = debugger {
        let held = bench.hold().await?;
        let _ports = bench.serve_ports(options.proxy_port).await?;
        bench.describe();
        let guest = Guest { name: format!("build {}", bench.build()), afterwards: "its machine is gone" };
        eprintln!("sandbox   {}", held.id);
        return debugger.session(&held.dir, &guest).await;
    }
    let failed = |error: std::io::Error| format!("listening to signals: {error}");
    let mut interrupts = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut ends = signal(SignalKind::terminate()).map_err(failed)?;
    let done = async {
        if let Some(count) = options.iterations {
            return iterations::run(bench, count.get(), options.cold).await.map(|()| ExitCode::SUCCESS);
        }
        once(state, bench, options).await
    };
    tokio::select! {
        outcome = done => outcome,
        _ = interrupts.recv() => Ok(ExitCode::from(INTERRUPTED)),
        _ = ends.recv() => Err("terminated".into()),
    }
}

/// One machine, for whatever is to be done in it.
async fn once(state: &StateDir, bench: &Bench, options: &Resume) -> Outcome {
    // Before there is anything to lose.
    let name = match options.pause {
        true => Some(NewName::new(state, options.name.as_deref()).await?),
        false => None,
    };
    if options.cold {
        bench.forget()?;
    }
    let machine = bench.resume().await?;
    let _ports = bench.serve_ports(options.proxy_port).await?;
    bench.describe();
    eprintln!("sandbox   {}", machine.id());
    let process = async {
        match (&options.cmd, options.pause) {
            (Some(command), _) => process::command(&machine, &options.user, command).await,
            (None, false) => process::shell(&machine, &options.user).await,
            (None, true) => Ok(0),
        }
    };
    let status = tokio::select! {
        status = process => status?,
        () = machine.ended() => return Err("the machine has ended".into()),
    };
    if status == 0
        && let Some(name) = name
    {
        let made = machine.pause(!options.fs_only).await?;
        eprintln!("snapshot  {}", name.give(&made).await?);
        println!("{}", made.id);
    }
    Ok(ExitCode::from(status))
}
