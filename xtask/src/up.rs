//! `cargo xtask up`.

use std::process::Command;

use crate::command::{capture, show};
use crate::{Outcome, build, packages, paths, preconditions};

pub(crate) fn run(options: &[String]) -> Outcome {
    preconditions::check()?;
    packages::ensure(&[packages::BUILD, packages::RUN].concat())?;
    build::all()?;
    // Makes the base template first, showing its steps.
    show(Command::new(paths::coldframe()).args(["up", "--detach"]).args(options))?;
    let state: Vec<&String> = options.iter().skip_while(|option| *option != "--state").take(2).collect();
    let env = capture(Command::new(paths::coldframe()).args(["env", "--wait", "30"]).args(state))?;
    println!("\nIn any shell:\n\n    eval \"$({} env)\"", paths::coldframe().display());
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

const SCRIPT: &str = "python3 - <<'END'
from e2b import Sandbox
with Sandbox.create() as sandbox:
    print(sandbox.commands.run('echo hello from $(uname -r)').stdout)
    sandbox.files.write('/home/user/note.txt', 'kept in the sandbox')
    print(sandbox.files.read('/home/user/note.txt'))
END";
