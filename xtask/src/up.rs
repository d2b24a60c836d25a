//! `cargo xtask up`.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::command::{capture, show};
use crate::{Outcome, build, packages, paths, preconditions};

pub(crate) fn run(options: &[String]) -> Outcome {
    preconditions::check()?;
    packages::ensure(&[packages::BUILD, packages::RUN].concat())?;
    build::all()?;
    // Makes the base template first, showing its steps.
    show(Command::new(paths::coldframe()).args(["up", "--detach"]).args(options))?;
    let state = state_option(options);
    let env = capture(Command::new(paths::coldframe()).args(["env", "--wait", "30"]).args(state))?;
    let words: String = state.iter().map(|word| format!(" {word}")).collect();
    println!("\nIn any shell:\n\n    eval \"$({} env{words})\"", name()?);
    println!("\nwhich is\n");
    for line in env.lines().filter(|line| !line.contains("E2B_API_KEY")) {
        println!("    {line}");
    }
    println!("    export E2B_API_KEY=...\n\nThen `pip install e2b` and paste:\n");
    for line in SCRIPT.lines() {
        println!("    {line}");
    }
    println!("\n`coldframe doctor` looks at this host, `coldframe down` stops everything.");
    Ok(())
}

/// The part of the options that `coldframe env` needs too.
fn state_option(options: &[String]) -> &[String] {
    let at = options.iter().position(|option| option == "--state" || option.starts_with("--state="));
    let words = |at: usize| if options[at] == "--state" { 2 } else { 1 };
    at.and_then(|at| options.get(at..at + words(at))).unwrap_or_default()
}

/// What the shell knows the binary as: its plain name, through a link on everybody's path, unless something else has that
/// place.
fn name() -> Result<String, String> {
    let (binary, link) = (paths::coldframe(), Path::new(LINK));
    let binary = binary.canonicalize().map_err(|error| format!("finding {}: {error}", binary.display()))?;
    let is_link = |path: &Path| path.symlink_metadata().is_ok_and(|meta| meta.is_symlink());
    if is_link(link) && link.canonicalize().is_ok_and(|target| target == binary) {
        return Ok("coldframe".into());
    }
    if is_link(link) {
        // Of another checkout, or of one that is gone.
        std::fs::remove_file(link).map_err(|error| format!("removing {LINK}: {error}"))?;
    }
    Ok(if symlink(&binary, link).is_ok() { "coldframe".into() } else { binary.display().to_string() })
}

const LINK: &str = "/usr/local/bin/coldframe";

const SCRIPT: &str = "python3 - <<'END'
from e2b import Sandbox
with Sandbox.create() as sandbox:
    print(sandbox.commands.run('echo hello from $(uname -r)').stdout)
    sandbox.files.write('/home/user/note.txt', 'kept in the sandbox')
    print(sandbox.files.read('/home/user/note.txt'))
END";

#[cfg(test)]
mod tests {
    use super::state_option;

    #[test]
    fn the_state_directory_is_found_in_both_forms() {
        let options = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(state_option(&options("--slots 2 --state /s --accel tcg")), ["--state", "/s"]);
        assert_eq!(state_option(&options("--state=/s")), ["--state=/s"]);
        assert!(
            state_option(&options("--slots 2")).is_empty() && state_option(&options("--state")).is_empty()
        );
    }
}
