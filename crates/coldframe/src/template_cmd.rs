//! `coldframe template base`.

use std::path::Path;
use std::process::ExitCode;

use crate::Outcome;
use crate::progress::Terminal;
use crate::state::StateDir;

pub(crate) fn base(dir: &Path) -> Outcome {
    let build = ensure(&StateDir::open(dir)?)?;
    println!("template base is build {}", build.id);
    Ok(ExitCode::SUCCESS)
}

/// The base template, made when it is missing or its inputs changed.
pub(crate) fn ensure(state: &StateDir) -> Result<template::Build, String> {
    let dirs = template::Dirs::new(state.root());
    template::ensure_base(
        &dirs,
        &crate::guest::Programs::unpack()?.binaries(),
        &template::BaseOptions::default(),
        &Terminal::new(),
    )
    .map_err(|error| error.to_string())
}
