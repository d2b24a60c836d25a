//! How a process ended.

use rustix::process::WaitIdStatus;

/// How a process ended. Small and in one piece, because many of them may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal { number: i32, core_dumped: bool },
    /// Nobody knows: it was lost.
    Unknown,
}

impl Exit {
    /// Exit code, or -1 when it did not end by itself.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal { .. } | Self::Unknown => -1,
        }
    }

    /// Whether it ended by itself.
    pub(super) fn exited(self) -> bool {
        matches!(self, Self::Code(_))
    }

    /// How it ended, for people; clients look for some of these texts.
    pub(super) fn status(self) -> String {
        match self {
            Self::Code(code) => format!("exit status {code}"),
            Self::Signal { number, core_dumped } => {
                let core = if core_dumped { " (core dumped)" } else { "" };
                match signal_name(number) {
                    Some(name) => format!("signal: {name}{core}"),
                    None => format!("signal: signal {number}{core}"),
                }
            }
            Self::Unknown => "exit status unknown".to_owned(),
        }
    }

    /// What to show as an error: nothing for success.
    pub(super) fn error(self) -> Option<String> {
        (self != Self::Code(0)).then(|| self.status())
    }
}

impl From<&WaitIdStatus> for Exit {
    fn from(status: &WaitIdStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(number)) => Self::Signal { number, core_dumped: status.dumped() },
            (None, None) => Self::Unknown,
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
        let signal = |number, core_dumped| Exit::Signal { number, core_dumped };
        for (exit, code, status) in [
            (Exit::Code(7), 7, "exit status 7"),
            (signal(9, false), -1, "signal: killed"),
            (signal(11, true), -1, "signal: segmentation fault (core dumped)"),
            (signal(40, false), -1, "signal: signal 40"),
            (Exit::Unknown, -1, "exit status unknown"),
        ] {
            assert_eq!((exit.code(), exit.status().as_str()), (code, status));
            assert_eq!(exit.error().as_deref(), Some(status));
        }
        assert_eq!((Exit::Code(0).status().as_str(), Exit::Code(0).error()), ("exit status 0", None));
        assert!(Exit::Code(7).exited() && !signal(9, false).exited());
    }
}
