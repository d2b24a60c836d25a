//! How long each phase of a resume takes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::Outcome;
use crate::bench::phases;
use crate::bench::report::Samples;
use crate::build_cmd::workbench::Workbench;

/// Resumes the build so often, one machine after the other, and shows how long each phase took.
pub(super) async fn run(bench: &Workbench, count: usize, cold: bool) -> Outcome {
    bench.describe();
    let mut measured = Measured::default();
    for _ in 0..count {
        if cold {
            bench.forget()?;
        }
        let (asked, begun) = (Timestamp::now(), Instant::now());
        let machine = bench.start().await?;
        let whole = begun.elapsed();
        // One that boots from its disk was not resumed.
        if let Some(resumed) = phases::read(machine.dir(), phases::RESUMED)? {
            let running = Duration::try_from(resumed.at.duration_since(asked)).unwrap_or_default();
            measured.note("processors run", running);
            for (name, time) in resumed.phases {
                measured.note(&format!("  of that: {name}"), time);
            }
            measured.note("daemon takes its identity", whole.saturating_sub(running));
        }
        measured.note("resumed", whole);
        machine.kill().await?;
    }
    for (name, samples) in &measured.0 {
        samples.print(name);
    }
    Ok(ExitCode::SUCCESS)
}

/// Times by what took them, in the order in which that comes.
#[derive(Default)]
struct Measured(Vec<(String, Samples)>);

impl Measured {
    fn note(&mut self, name: &str, time: Duration) {
        let at = self.0.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
            self.0.push((name.to_owned(), Samples::default()));
            self.0.len() - 1
        });
        self.0[at].1.push(time);
    }
}
