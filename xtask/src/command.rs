//! Running programs.

use std::process::{Command, Stdio};

use crate::Outcome;

/// Runs a program to its end with its output shown.
pub(crate) fn show(command: &mut Command) -> Outcome {
    let text = text(command);
    let status = command.status().map_err(|error| format!("running {text}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{text} failed ({status})")) }
}

/// Runs a program to its end and returns what it printed; its errors are part of the failure.
pub(crate) fn capture(command: &mut Command) -> Result<String, String> {
    let text = text(command);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("running {text}: {error}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(stdout.into_owned());
    }
    Err(format!("{text} failed ({}):\n{stdout}{stderr}", output.status))
}

/// Whether a program runs and ends well.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
