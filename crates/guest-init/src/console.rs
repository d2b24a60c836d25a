//! Lines on the serial console, which the host keeps as the sandbox's log.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Prints one line, marked as ours. In one write, so that the kernel's own lines cannot fall into it.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    print_line(&format!("coldframe: {text}"));
}

/// Prints one line as it is. A console that cannot be written to is no reason to stop.
pub(crate) fn print_line(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// When each step of the boot was done, by the kernel's clock, which starts with the kernel.
pub(crate) struct Timeline(String);

impl Timeline {
    pub(crate) fn start() -> Self {
        let mut timeline = Self(String::from("boot"));
        timeline.mark("init");
        timeline
    }

    pub(crate) fn mark(&mut self, step: &str) {
        let at = since_boot();
        // Writing to a String does not fail.
        let _ = write!(self.0, " {step}={}.{:03}", at.as_secs(), at.subsec_millis());
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Time since the kernel started its clock.
pub(crate) fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}
