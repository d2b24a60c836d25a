//! `coldframe doctor`: what this host offers, and what to do about what it does not.
//!
//! Exit code 0 when sandboxes can run here, 1 when something that they need is missing. What only costs speed or a later
//! feature is a warning.

mod accelerator;
mod kernel;
mod resources;

use std::path::Path;
use std::process::ExitCode;

use crate::Outcome;
use crate::state::StateDir;

/// What one look found.
pub(crate) struct Finding {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    fact: String,
    /// What to do, for everything that is not fine.
    hint: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Fine,
    Slower,
    Missing,
}

impl Finding {
    fn fine(name: &'static str, fact: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fine, fact: fact.into(), hint: "" }
    }

    fn slower(name: &'static str, fact: impl Into<String>, hint: &'static str) -> Self {
        Self { name, verdict: Verdict::Slower, fact: fact.into(), hint }
    }

    fn missing(name: &'static str, fact: impl Into<String>, hint: &'static str) -> Self {
        Self { name, verdict: Verdict::Missing, fact: fact.into(), hint }
    }
}

pub(crate) fn run(dir: &Path) -> Outcome {
    if !rustix::process::geteuid().is_root() {
        return Err("doctor looks at things only root can see; run it as root".into());
    }
    let state = StateDir::open(dir)?;
    let findings = [
        resources::qemu(),
        accelerator::check(&state),
        kernel::userfaultfd(),
        kernel::tun(),
        kernel::nftables(),
        kernel::cgroups(),
        resources::disk(&state),
        resources::memory(),
        kernel::hugepages(),
        kernel::nx_huge_pages(),
        kernel::favordynmods(),
    ];
    for finding in &findings {
        let mark = match finding.verdict {
            Verdict::Fine => "ok     ",
            Verdict::Slower => "warning",
            Verdict::Missing => "MISSING",
        };
        println!("{mark}  {:<14} {}", finding.name, finding.fact);
        if finding.verdict != Verdict::Fine {
            println!("{:26}-> {}", "", finding.hint);
        }
    }
    let missing = findings.iter().filter(|finding| finding.verdict == Verdict::Missing).count();
    if missing == 0 {
        println!("sandboxes can run on this host");
        return Ok(ExitCode::SUCCESS);
    }
    println!("sandboxes cannot run on this host: {missing} of {} checks failed", findings.len());
    Ok(ExitCode::FAILURE)
}
