//! The project's two commands, `up` and `test`, and what CI runs.
//!
//! Everything that a fresh Debian machine lacks is installed here, and nothing is done twice: a second run finds it in
//! place.
#![forbid(unsafe_code)]

mod build;
mod command;
mod fuzz;
mod packages;
mod paths;
mod preconditions;
mod prepush;
mod steps;
mod tools;
mod up;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Build, run and test Coldframe")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From a fresh machine to a running server with a base template.
    Up {
        /// Passed on to `coldframe up`, after `--`.
        #[arg(last = true)]
        options: Vec<String>,
    },
    /// Install what the tests need and run all of them.
    Test {
        /// Only steps whose name contains one of these texts.
        only: Vec<String>,
    },
    /// What CI runs; the same as `test`.
    Prepush,
    /// Run fuzz targets; see fuzz/README.md.
    Fuzz {
        /// Only these.
        only: Vec<String>,
        /// How long each runs.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Build the guest's programs and the release binary.
    Build,
}

/// What a step says when it fails: one sentence with the remedy.
type Outcome = Result<(), String>;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up { options } => up::run(&options),
        Command::Test { only } => prepush::run(&only),
        Command::Prepush => prepush::run(&[]),
        Command::Fuzz { only, seconds } => fuzz::run(&only, seconds),
        Command::Build => packages::ensure(packages::BUILD).and_then(|()| build::all()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
