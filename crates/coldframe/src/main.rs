//! The one binary: server, supervisor and the tools around them.
#![forbid(unsafe_code)]

mod bench;
mod build_cmd;
mod builds;
mod cli;
mod debug;
mod doctor;
mod down;
mod env;
mod exec;
mod guest;
mod http;
mod key;
mod logging;
mod metrics;
mod paused;
mod progress;
mod reach;
mod rest;
mod sandbox;
mod server;
mod state;
mod storage;
mod template_cmd;
mod up;
mod warm;
mod workshop;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Command};

/// What a command says when it fails: one sentence for whoever typed it.
type Outcome = Result<ExitCode, String>;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Up(options) => up::run(&options),
        Command::Down { state } => down::run(&state.dir),
        Command::Env { state, wait } => env::run(&state.dir, wait),
        Command::Doctor { state } => doctor::run(&state.dir),
        Command::Key(command) => key::run(&command),
        Command::Template(cli::Template::Base { state }) => template_cmd::base(&state.dir),
        Command::Sandbox(command) => sandbox::run(&command),
        Command::Build(command) => build_cmd::run(&command),
        Command::Storage { state, json } => storage::run(&state.dir, json),
        Command::Bench(command) => bench::run(&command),
        Command::Supervisor { dir } => {
            logging::supervisor();
            supervisor::run(&dir, guest::preload())
                .map(|()| ExitCode::SUCCESS)
                .map_err(|error| error.to_string())
        }
    };
    outcome.unwrap_or_else(|message| {
        eprintln!("coldframe: {message}");
        ExitCode::FAILURE
    })
}
