//! Telling whoever waits what takes so long.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Runs one long step whose output is only of interest when it fails.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let begun = Instant::now();
    let bar = std::io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    });
    if bar.is_none() {
        eprintln!("{what}");
    }
    let outcome = work();
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if outcome.is_ok() && begun.elapsed() > Duration::from_secs(1) {
        eprintln!("{what}: {:.1} s", begun.elapsed().as_secs_f64());
    }
    outcome
}
