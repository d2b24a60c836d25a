//! Running other programs.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::error::TemplateError;

/// What is kept of a program's output for the error message: its last lines.
const KEPT_LINES: usize = 15;
/// A longer line is cut: a program that prints progress without line ends must not fill the memory.
const MAX_LINE: usize = 500;

/// How a program failed.
pub(crate) struct ToolFailure {
    pub(crate) how: String,
    pub(crate) output: String,
}

impl ToolFailure {
    pub(crate) fn into_error(self, what: impl Into<String>) -> TemplateError {
        TemplateError::Tool { what: what.into(), how: self.how, output: self.output }
    }

    pub(crate) fn into_network_error(self, what: impl Into<String>) -> TemplateError {
        TemplateError::Network { what: what.into(), output: self.output }
    }
}

/// A command in the C locale, without questions, and with root's usual path: sbin is not on every user's.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null());
    command
}

/// Runs it and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String, ToolFailure> {
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let errors = text(&output.stderr);
    let lines: Vec<&str> = errors.lines().collect();
    let last = lines[lines.len().saturating_sub(KEPT_LINES)..].join("\n");
    Err(ToolFailure { how: output.status.to_string(), output: last })
}

/// Runs it and hands every line that it writes to standard error to `line`.
pub(crate) fn watch(command: &mut Command, mut line: impl FnMut(&str)) -> Result<(), ToolFailure> {
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| cannot_start(command, &error))?;
    let mut last = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        for bytes in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_LINE)]).into_owned();
            line(&text);
            if last.len() == KEPT_LINES {
                last.pop_front();
            }
            last.push_back(text);
        }
    }
    let failed =
        |how: String, last: VecDeque<String>| ToolFailure { how, output: Vec::from(last).join("\n") };
    match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(status.to_string(), last)),
        Err(error) => Err(failed(error.to_string(), last)),
    }
}

fn cannot_start(command: &Command, error: &std::io::Error) -> ToolFailure {
    let program = command.get_program().to_string_lossy();
    ToolFailure { how: "it cannot be started".to_owned(), output: format!("{program}: {error}") }
}
