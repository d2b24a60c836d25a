//! The one program that is run here: it loads a packet filter in one transaction.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::NetworkError;

/// Where the tool is when the search path has no directories for administrators.
const PROGRAMS: [&str; 2] = ["nft", "/usr/sbin/nft"];
/// How much of the tool's complaints goes into an error.
const MAX_MESSAGE: usize = 2000;

/// Loads a ruleset into the calling thread's network namespace: all of it or nothing.
pub(crate) fn load(table: &str, ruleset: &str) -> Result<(), NetworkError> {
    let mut child = spawn()?;
    let written = match child.stdin.take() {
        Some(mut stdin) => stdin.write_all(ruleset.as_bytes()),
        None => Ok(()),
    };
    let output = child.wait_with_output().map_err(NetworkError::io("wait for nft"))?;
    if output.status.success() {
        // Had it not read everything, it would have said so.
        return written.map_err(NetworkError::io("write to nft"));
    }
    let mut message = String::from_utf8_lossy(&output.stderr).into_owned();
    message.truncate(message.floor_char_boundary(MAX_MESSAGE));
    Err(NetworkError::Nft { table: table.to_owned(), message: message.trim().to_owned() })
}

fn spawn() -> Result<std::process::Child, NetworkError> {
    for program in PROGRAMS {
        let started = Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match started {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            started => return started.map_err(NetworkError::io(format!("run {program}"))),
        }
    }
    Err(NetworkError::NoNft)
}
