//! What nothing can be done without, said in one sentence each.

use std::path::Path;
use std::process::Command;

use crate::Outcome;
use crate::command::capture;

/// Compiling, the template and its making.
const FREE_GIB: u64 = 8;

/// Checks that this machine can be used at all.
pub(crate) fn check() -> Outcome {
    if !crate::packages::is_root() {
        return Err(
            "sandboxes need namespaces, taps and control groups, which only root may make; run it as root"
                .into(),
        );
    }
    for place in [Path::new("/var/lib"), crate::paths::repository()] {
        let text = capture(Command::new("df").args(["--output=avail", "-k"]).arg(place))?;
        let free =
            text.lines().nth(1).and_then(|line| line.trim().parse::<u64>().ok()).unwrap_or(u64::MAX) >> 20;
        if free < FREE_GIB {
            return Err(format!(
                "{free} GiB are free at {} and {FREE_GIB} are needed; free some",
                place.display()
            ));
        }
    }
    Ok(())
}
