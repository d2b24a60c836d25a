//! Cargo's subcommands that are not part of it.

use std::path::PathBuf;

use crate::command::capture;
use crate::steps::step;
use crate::{build, paths};

/// The program of a subcommand, `cargo-deny` say. It is built the first time.
pub(crate) fn cargo(name: &str) -> Result<PathBuf, String> {
    let tools = paths::cache().join("tools");
    let program = tools.join("bin").join(name);
    if !program.exists() {
        step(&format!("building {name}, once"), || {
            let target = paths::cache().join("tools-target");
            capture(
                build::cargo()
                    .args(["install", "--quiet", "--locked", name, "--root"])
                    .arg(&tools)
                    .env("CARGO_TARGET_DIR", target),
            )
        })?;
    }
    Ok(program)
}
