//! `coldframe bench`: numbers with the command, the host, the raw samples and the floor of the same run.

mod bare;
mod boot;
mod checkpoint;
mod create;
mod depth;
mod envd;
mod fork;
mod gdb;
mod handover;
mod image;
mod memory;
mod pause;
pub(crate) mod phases;
mod ports;
mod processes;
pub(crate) mod report;
mod restore;
mod resume;
mod server;
mod spawn;
mod streams;
mod toucher;

use std::process::ExitCode;

use crate::Outcome;
use crate::cli::Bench;

pub(crate) fn run(command: &Bench) -> Outcome {
    match command {
        Bench::Touch { memfd, pages } => toucher::run(*memfd, *pages)?,
        Bench::Restore { store, netns } => restore::run(store, netns)?,
        command => measure(command)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(command: &Bench) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    report::heading();
    match command {
        Bench::Create { state, count } => runtime.block_on(create::run(&state.dir, *count)),
        Bench::Pause { state, count, dirty } => runtime.block_on(pause::run(&state.dir, *count, *dirty)),
        Bench::Checkpoint { state, count, dirty } => {
            runtime.block_on(checkpoint::run(&state.dir, *count, *dirty))
        }
        Bench::Fork { state, count, forks } => runtime.block_on(fork::run(&state.dir, *count, *forks)),
        Bench::Resume { state, count, depth } => runtime.block_on(resume::run(&state.dir, *count, *depth)),
        Bench::Memory { dir, size, rounds } => memory::run(dir.as_deref(), *size, *rounds),
        Bench::Depth { dir, size, depth } => depth::run(dir.as_deref(), *size, *depth),
        Bench::Gdb { state, count } => gdb::run(&state.dir, *count),
        Bench::Envd { count } => runtime.block_on(envd::run(*count)),
        Bench::Touch { .. } | Bench::Restore { .. } => Ok(()),
    }
}
