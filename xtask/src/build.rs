//! Building: first what runs in the guest, then the binary that carries it.

use std::io::IsTerminal;
use std::process::Command;

use crate::Outcome;
use crate::command::show;
use crate::paths;

/// The guest's programs are built for an explicit target, so that their flags do not reach build scripts.
pub(crate) const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds everything in release.
pub(crate) fn all() -> Outcome {
    guest()?;
    eprintln!("building coldframe");
    show(
        build()
            .args(["--release", "--package", "coldframe"])
            .env("COLDFRAME_GUEST_DIR", paths::guest_programs()),
    )
}

/// The static programs of the guest: any image works when they need nothing from it.
fn guest() -> Outcome {
    eprintln!("building the guest's programs");
    let mut command = build();
    command
        .args(["--profile", "guest", "--target", GUEST_TARGET])
        .args(["--package", "envd", "--package", "guest-init"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static");
    show(&mut command)?;
    // What a VMM is started with is loaded into a program that is not ours: it uses that program's libraries.
    let mut library = build();
    library.args(["--profile", "guest", "--target", GUEST_TARGET, "--package", "uffd-preload"]);
    show(&mut library)
}

/// A first build takes minutes, so whoever watches sees cargo's own bar; a log gets only what went wrong.
fn build() -> Command {
    let mut command = cargo();
    command.arg("build");
    if !std::io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    command
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repository());
    command
}
