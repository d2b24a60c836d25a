//! Telling whoever waits what takes so long.

/// Hears about long steps.
pub trait Progress {
    /// A step begins, and with it the one before is done. `name` is a phrase: "downloading the kernel".
    fn step(&self, name: &str);

    /// What the current step is at: a package's name, say. May come many times a second.
    fn detail(&self, _text: &str) {}

    /// The last step is done.
    fn finish(&self) {}
}

/// Writes steps to the log.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogProgress;

impl Progress for LogProgress {
    fn step(&self, name: &str) {
        tracing::info!("{name}");
    }

    fn detail(&self, text: &str) {
        tracing::debug!("{text}");
    }
}
