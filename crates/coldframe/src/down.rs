//! `coldframe down`: the server, every sandbox, and what they used.

use std::path::Path;
use std::process::ExitCode;

use crate::Outcome;
use crate::state::StateDir;

pub(crate) fn run(dir: &Path) -> Outcome {
    let state = StateDir::open(dir)?;
    crate::up::stop(&state)?;
    let _lock = state.lock()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    runtime
        .block_on(async {
            crate::workshop::sweep(&state).await;
            node::remove_everything(&state.sandboxes(), state.tag()).await
        })
        .map_err(|error| error.to_string())?;
    state.remove_server();
    println!("coldframe is down; templates and keys are kept in {}", state.root().display());
    Ok(ExitCode::SUCCESS)
}
