//! How a process ended.

use rustix::process::WaitIdStatus;

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exit {
    /// Exit code, or -1 when a signal ended it.
    pub(super) code: i32,
    /// Whether it ended by itself.
    pub(super) exited: bool,
    /// How it ended, for people; clients look for some of these texts.
    pub(super) status: String,
}

impl Exit {
    /// An exit with this code.
    pub(super) fn with_code(code: i32) -> Self {
        Self { code, exited: true, status: format!("exit status {code}") }
    }

    /// The end by this signal.
    fn by_signal(signal: i32, core_dumped: bool) -> Self {
        let core = if core_dumped { " (core dumped)" } else { "" };
        let status = match signal_name(signal) {
            Some(name) => format!("signal: {name}{core}"),
            None => format!("signal: signal {signal}{core}"),
        };
        Self { code: -1, exited: false, status }
    }

    /// What to show as an error: nothing for success.
    pub(super) fn error(&self) -> Option<String> {
        (self.code != 0).then(|| self.status.clone())
    }
}

impl From<&WaitIdStatus> for Exit {
    fn from(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::with_code(code),
            (None, Some(signal)) => Self::by_signal(signal, status.dumped()),
            // Neither is not possible for a process that has ended.
            (None, None) => Self::with_code(-1),
        }
    }
}

/// What E2B's daemon calls the signals of Linux.
const fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        16 => "stack fault",
        24 => "CPU time limit exceeded",
        25 => "file size limit exceeded",
        26 => "virtual timer expired",
        27 => "profiling timer expired",
        29 => "I/O possible",
        30 => "power failure",
        31 => "bad system call",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_those_that_clients_know() {
        assert_eq!(Exit::with_code(0).error(), None);
        assert_eq!(Exit::with_code(0).status, "exit status 0");
        assert_eq!(Exit::with_code(7).error().as_deref(), Some("exit status 7"));
        let killed = Exit::by_signal(9, false);
        assert_eq!((killed.code, killed.exited), (-1, false));
        assert_eq!(killed.error().as_deref(), Some("signal: killed"));
        assert_eq!(Exit::by_signal(11, true).status, "signal: segmentation fault (core dumped)");
        assert_eq!(Exit::by_signal(40, false).status, "signal: signal 40");
    }
}
