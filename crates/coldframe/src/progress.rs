//! Long steps, shown to whoever waits: a spinner on a terminal, a line each elsewhere.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use template::Progress;

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);
/// A step that takes less is not worth a line afterwards.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// Shows the steps of one piece of work on standard error.
#[derive(Debug)]
pub(crate) struct Terminal {
    bar: Option<ProgressBar>,
    step: RefCell<Option<(String, Instant)>>,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, step: RefCell::new(None) }
    }

    fn end_step(&self) {
        let Some((name, begun)) = self.step.take() else { return };
        if let Some(bar) = &self.bar
            && begun.elapsed() >= WORTH_TELLING
        {
            bar.println(format!("  {name}: {:.1} s", begun.elapsed().as_secs_f64()));
        }
    }
}

impl Progress for Terminal {
    fn step(&self, name: &str) {
        self.end_step();
        *self.step.borrow_mut() = Some((name.to_owned(), Instant::now()));
        match &self.bar {
            Some(bar) => {
                bar.enable_steady_tick(TURN);
                bar.reset_elapsed();
                bar.set_prefix(name.to_owned());
                bar.set_message("");
            }
            None => eprintln!("{name}"),
        }
    }

    fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    fn finish(&self) {
        self.end_step();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
