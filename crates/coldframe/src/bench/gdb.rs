//! `coldframe bench gdb`: from a command until gdb does what it is told, in a machine that is held before its first instruction,
//! against gdb that only loads the same symbols.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::report::{Samples, bar};
use crate::builds::BASE;
use crate::state::StateDir;

/// What gdb says when it is there.
const THERE: &str = "at the prompt";
/// How the line begins that says where the symbols are.
const SYMBOLS: &str = "symbols";
/// From the command to the prompt, apart from gdb's own work.
const MOST: Duration = Duration::from_secs(2);

pub(crate) fn run(dir: &Path, count: usize) -> Result<(), String> {
    let state = StateDir::open(dir)?;
    // Where gdb keeps what it found out, and the symbols themselves, may have to be made.
    let (_, symbols) = session(&state)?;
    let (mut prompt, mut floor) = (Samples::default(), Samples::default());
    for _ in 0..count {
        floor.push(alone(&state, &symbols)?);
        prompt.push(session(&state)?.0);
    }
    floor.print("floor: gdb loads the symbols");
    prompt.print("command to gdb's prompt");
    let more = prompt.percentile(50).saturating_sub(floor.percentile(50));
    bar("prompt, beside gdb's own work", more.as_secs_f64(), "s", more <= MOST, "<= 2 s");
    floor.print_raw("floor: gdb loads the symbols");
    prompt.print_raw("command to gdb's prompt");
    Ok(())
}

/// A whole session; how long it took until gdb did something, and the file with the symbols.
fn session(state: &StateDir) -> Result<(Duration, PathBuf), String> {
    let failed = |error: &dyn std::fmt::Display| format!("a session with gdb: {error}");
    let begun = Instant::now();
    let mut command = Command::new("/proc/self/exe");
    command.args(["build", "resume", BASE, "--gdb", "--gdb-exec"]).arg(format!("echo {THERE}\\n"));
    command.arg("--state").arg(state.root());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed(&"no pipes"));
    };
    // Both are read, or the one that is not is in the way.
    let told = std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).collect());
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let there = lines.any(|line| line.contains(THERE)).then(|| begun.elapsed());
    lines.for_each(drop);
    let told: Vec<String> = told.join().map_err(|_| failed(&"reading what it said"))?;
    let status = child.wait().map_err(|error| failed(&error))?;
    let symbols = told.iter().find_map(|line| line.strip_prefix(SYMBOLS)?.trim().split(" (").next());
    match (there, symbols) {
        (Some(time), Some(symbols)) if status.success() => Ok((time, symbols.into())),
        _ => Err(failed(&told.join("\n"))),
    }
}

/// gdb with the symbols and without a machine.
fn alone(state: &StateDir, symbols: &Path) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut gdb = Command::new("gdb");
    gdb.args(["-nx", "-q", "-batch", "-ex"])
        .arg(format!("set index-cache directory {}", state.root().join("cache/gdb").display()))
        .args(["-ex", "set index-cache enabled on", "-ex"])
        .arg(format!("symbol-file -o 0 {}", symbols.display()));
    let status = gdb.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let status = status.map_err(|error| format!("running gdb: {error}"))?;
    if status.success() { Ok(begun.elapsed()) } else { Err(format!("gdb ended with {status}")) }
}
