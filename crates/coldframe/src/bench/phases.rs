//! What a supervisor says in its log of how long the phases of something took.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

/// How the line about a resume begins, behind its time and origin.
pub(crate) const RESUMED: &str = "machine resumed:";
/// How the line about the daemon's first requests begins.
pub(crate) const INITIALISED: &str = "guest initialised:";
/// How the line about a snapshot begins.
pub(crate) const SNAPSHOT: &str = "snapshot made:";

/// One of them, as the supervisor saw it.
#[derive(Debug, PartialEq)]
pub(crate) struct Phases {
    /// When it was over.
    pub(crate) at: Timestamp,
    /// Each phase by its name.
    pub(crate) phases: Vec<(String, Duration)>,
}

/// The last one in the log of the sandbox directory `dir`; `None` when the supervisor says nothing of it.
pub(crate) fn read(dir: &Path, mark: &str) -> Result<Option<Phases>, String> {
    let path = dir.join("supervisor.log");
    let log = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(log.lines().rev().find_map(|line| parse(line, mark)))
}

fn parse(line: &str, mark: &str) -> Option<Phases> {
    let (before, phases) = line.split_once(mark)?;
    let at = before.split_whitespace().next()?.parse().ok()?;
    let phase = |word: &str| {
        let (name, millis) = word.split_once('=')?;
        let millis: f64 = millis.trim_end_matches(',').trim_end_matches("ms").parse().ok()?;
        Some((name.to_owned(), Duration::try_from_secs_f64(millis / 1e3).ok()?))
    };
    Some(Phases { at, phases: phases.split_whitespace().filter_map(phase).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_line_and_no_other() {
        let line = "2026-01-02T03:04:05.678901Z  INFO supervisor::run: machine resumed: launch=31.5 handshake=0.2 \
                    load=4ms, run=1.25 build=b";
        let resumed = parse(line, RESUMED).unwrap();
        assert_eq!(resumed.at.as_microsecond(), 1_767_323_045_678_901);
        let phases: Vec<_> =
            resumed.phases.iter().map(|(name, time)| (name.as_str(), time.as_micros())).collect();
        assert_eq!(phases, [("launch", 31_500), ("handshake", 200), ("load", 4_000), ("run", 1_250)]);
        assert_eq!(parse(line, SNAPSHOT), None);
        assert_eq!(
            parse("2026-01-02T03:04:05.678901Z  INFO supervisor::run: ended why=Killed", RESUMED),
            None
        );
    }
}
