//! `coldframe build resume`: a build goes on, in a machine of its own, by the code that a node runs, and without its server.
//!
//! ```text
//! build ─> workshop ─> machine ─┬─> shell or command ─> pause ─> build
//!                               ├─> gone again, so often
//!                               └─> gdb, which it is held for
//! ```
//! Whatever becomes of this command, nothing is left but a build that it has printed: see [`crate::workshop`].

mod iterations;

use std::process::ExitCode;

use artifacts::{LocalStore, load_manifest};
use control::Prefetch;
use model::WayBack;

use super::names::{self, NewName};
use super::process;
use super::workbench::{Settings, Source, Workbench, interruptible, on_a_workbench};
use crate::Outcome;
use crate::cli::Resume;
use crate::debug::{Debugger, Guest, kernel_in};
use crate::state::StateDir;

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
    let settings = Settings {
        prefetch: if options.no_prefetch { Prefetch::Nothing } else { Prefetch::WorkingSet },
        way: if options.reboot { WayBack::Reboot } else { WayBack::Best },
        workshop: options.place.number,
        dns: options.dns.servers.clone(),
        vmm: options.gdb_vmm.clone(),
        egress: !(options.no_egress || options.gdb),
    };
    on_a_workbench(&state, Source::Build(Box::new(manifest)), settings, async |bench| match &debugger {
        // What is typed to interrupt is for the guest.
        Some(debugger) => debug(bench, debugger, options).await,
        None => match options.iterations {
            Some(count) => interruptible(iterations::run(bench, count.get(), options.cold)).await,
            None => interruptible(once(&state, bench, options)).await,
        },
    })
}

/// What does not go together, and is not said by the rules of the options.
fn refuse(options: &Resume) -> Result<(), String> {
    let told = &options.told;
    let for_gdb = [
        ("--gdb-symbols", told.symbols.is_some()),
        ("--gdb-macros", told.macros.is_some()),
        ("--gdb-exec", !told.exec.is_empty()),
        ("--gdb-script", !told.script.is_empty()),
        ("--gdb-vmm", options.gdb_vmm.is_some()),
    ];
    match for_gdb.into_iter().find(|(_, given)| *given && !options.gdb) {
        Some((name, _)) => Err(format!("{name} is for --gdb")),
        None => Ok(()),
    }
}

async fn debug(bench: &Workbench, debugger: &Debugger<'_>, options: &Resume) -> Outcome {
    let held = bench.hold().await?;
    let _ports = bench.serve_ports(options.proxy_port).await?;
    bench.describe();
    let guest = Guest { name: format!("build {}", bench.build()), afterwards: "its machine is gone" };
    eprintln!("sandbox   {}", held.id());
    match debugger.connect(held.dir(), &guest).await {
        Ok(connected) => connected.session().await,
        // Its supervisor knew better.
        Err(error) => Err(held.why_not().await.map_or(error, |why| why.to_string())),
    }
}

/// One machine, for whatever is to be done in it.
async fn once(state: &StateDir, bench: &Workbench, options: &Resume) -> Outcome {
    // Before there is anything to lose.
    let name = match options.pause {
        true => Some(NewName::new(state, options.name.as_deref()).await?),
        false => None,
    };
    if options.cold {
        bench.forget()?;
    }
    let machine = bench.start().await?;
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
    let status = machine.unless_it_ends(process).await?;
    if status == 0
        && let Some(name) = name
    {
        let made = machine.pause(!options.fs_only).await?;
        eprintln!("snapshot  {}", name.give(&made).await?);
        println!("{}", made.id);
    }
    Ok(ExitCode::from(status))
}
