//! `coldframe storage`: what of the store is held by what, what of it nobody needs, and how much a delete would free.
//!
//! Builds share what they did not change, so what somebody reads is rarely what goes when he goes: each holder is shown
//! with both. And a build goes as a whole, so it may be kept for a few of its pages: the rest is dead until compaction
//! copies these to another.

mod account;
mod builds;
mod holders;
mod needed;

use std::path::Path;
use std::process::ExitCode;

use crate::Outcome;
use crate::state::StateDir;
use account::{Account, BuildLine, HolderLine};

/// Builds are shown to people from so many dead bytes on.
const WORTH_SHOWING: u64 = 1 << 20;

pub(crate) fn run(dir: &Path, json: bool) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    let state = StateDir::open(dir)?;
    let builds = builds::look(&state.store())?;
    let holders = runtime.block_on(holders::find(&state, &builds))?;
    let needed = needed::by(&state.store(), &holders)?;
    let account = Account::of(&builds, &holders, &needed);
    if json {
        println!("{}", serde_json::to_string_pretty(&account).map_err(|error| error.to_string())?);
    } else {
        print(&account);
    }
    Ok(ExitCode::SUCCESS)
}

fn print(account: &Account) {
    println!("{:<9} {:<40} {:>6} {:>10} {:>10} {:>10}", "KIND", "NAME", "BUILDS", "READS", "DEAD", "FREES");
    for HolderLine { kind, name, builds, reads, dead, frees } in &account.holders {
        let (reads, dead, frees) = (size(*reads), size(*dead), size(*frees));
        println!("{:<9} {name:<40} {builds:>6} {reads:>10} {dead:>10} {frees:>10}", kind.as_str());
    }
    let (total, dead) = (size(account.total), size(account.dead));
    println!("{total} in {} builds; {dead} of it are dead", account.builds.len());
    let worth = |line: &&BuildLine| line.dead >= WORTH_SHOWING && !line.holders.is_empty();
    if account.builds.iter().any(|line| worth(&line)) {
        println!("\n{:<25} {:>10} {:>10} KEPT FOR", "BUILD", "BYTES", "DEAD");
    }
    for BuildLine { build, bytes, dead, holders } in account.builds.iter().filter(worth) {
        let (bytes, dead) = (size(*bytes), size(*dead));
        println!("{:<25} {bytes:>10} {dead:>10} {}", build.as_str(), holders.join(", "));
    }
}

/// A number of bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
