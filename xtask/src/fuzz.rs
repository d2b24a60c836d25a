//! `cargo xtask fuzz`: fuzz targets, one after the other. What they learn is kept for the next run.

use std::fs;
use std::process::Command;

use crate::command::show;
use crate::{Outcome, packages, paths, tools};

/// Beside what compiling needs: the fuzzer itself is C++.
const PACKAGES: &[&str] = &["g++"];
const TARGETS: &[&str] =
    &["header", "manifest", "handshake", "requests", "form", "encodings", "init", "sockets", "answer"];

/// Runs these targets, or all of them, each for so many seconds.
pub(crate) fn run(only: &[String], seconds: u32) -> Outcome {
    if let Some(unknown) = only.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        return Err(format!("there is no fuzz target {unknown}; there are: {}", TARGETS.join(", ")));
    }
    packages::ensure(&[packages::BUILD, PACKAGES].concat())?;
    let cargo_fuzz = tools::cargo("cargo-fuzz")?;
    let fuzz = paths::repository().join("fuzz");
    for &target in TARGETS.iter().filter(|name| only.is_empty() || only.iter().any(|wanted| wanted == *name))
    {
        let corpus = paths::cache().join("fuzz").join(target);
        fs::create_dir_all(&corpus).map_err(|error| format!("making {}: {error}", corpus.display()))?;
        println!("\n== {target}, {seconds} s");
        let mut command = Command::new(&cargo_fuzz);
        // Without a sanitizer the stable toolchain is enough, and what is fuzzed has no memory of its own to corrupt.
        command.args(["run", "--sanitizer", "none", target]).arg(&corpus);
        command.current_dir(&fuzz).env("CARGO_TARGET_DIR", paths::target().join("fuzz"));
        let seeds = fuzz.join("seeds").join(target);
        if seeds.exists() {
            command.arg(seeds);
        }
        command.args(["--", &format!("-max_total_time={seconds}"), "-timeout=10"]);
        let words = fuzz.join(format!("{target}.dict"));
        if words.exists() {
            command.arg(format!("-dict={}", words.display()));
        }
        show(&mut command)?;
    }
    Ok(())
}
