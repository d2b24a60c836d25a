//! `coldframe env`: what a shell must export so that E2B clients find this server.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::state::StateDir;

/// Between two looks for a server that is starting.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn run(dir: &Path, wait: u64) -> Outcome {
    let state = StateDir::open(dir)?;
    let deadline = Instant::now() + Duration::from_secs(wait);
    let server = loop {
        match state.server() {
            Some(server) if crate::up::healthy(&server.url) => break server,
            _ if Instant::now() >= deadline => {
                return Err(format!(
                    "no server runs for {}; start one with `coldframe up`, or wait for it with --wait SECONDS",
                    state.root().display()
                ));
            }
            _ => std::thread::sleep(LOOK),
        }
    };
    let key = state.key().ok_or("the server has no default key: make one with `coldframe key create`")?;
    println!("export E2B_API_URL={}", server.url);
    println!("export E2B_SANDBOX_URL={}", server.url);
    println!("export E2B_API_KEY={}", key.expose());
    Ok(ExitCode::SUCCESS)
}
