//! `coldframe bench`: numbers with the command, the host, the raw samples and the floor of the same run.

mod create;
mod envd;
mod http;
mod report;

use std::process::ExitCode;

use crate::Outcome;
use crate::cli::Bench;

pub(crate) fn run(command: &Bench) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    report::heading();
    match command {
        Bench::Create { state, count } => runtime.block_on(create::run(&state.dir, *count))?,
        Bench::Envd { count } => runtime.block_on(envd::run(*count))?,
    }
    Ok(ExitCode::SUCCESS)
}
