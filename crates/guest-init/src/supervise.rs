//! The second life: everything after the boot.
//!
//! One thread, one wait. A child died: reap it, and if it was envd, start it again after a pause that doubles while
//! envd keeps dying young. A signal that asks for the end: end the machine.

use std::convert::Infallible;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::cmdline::Cmdline;
use crate::console::say;
use crate::envd::Program;
use crate::error::{Attempt as _, Failure};
use crate::shutdown;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An envd that lived so long had started well: its death is a new trouble, not the old one again.
const LIVED_WELL: Duration = Duration::from_secs(10);

/// What the classic tools send to PID 1 to power off, halt or restart. A sandbox knows only one end.
const END_SIGNALS: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGPWR, Signal::SIGUSR1, Signal::SIGUSR2];

/// envd as seen by the process that keeps it running.
pub(crate) struct Envd<'a> {
    program: Program,
    cmdline: &'a Cmdline,
    signals: SignalFd,
    state: State,
    /// Before it is started again after its next early death.
    pause: Duration,
}

enum State {
    Running { pid: Pid, since: Instant },
    Dead { until: Instant },
}

impl<'a> Envd<'a> {
    /// Starts envd for the first time.
    pub(crate) fn start(program: Program, cmdline: &'a Cmdline) -> Result<Self, Failure> {
        // Before the first child, whose death must not be missed.
        let signals = watch_signals().attempt(|| "watch for signals".to_owned())?;
        say(format_args!("starting envd"));
        let pid = program.start(cmdline).attempt(|| "start envd".to_owned())?;
        let state = State::Running { pid, since: Instant::now() };
        Ok(Self { program, cmdline, signals, state, pause: FIRST_PAUSE })
    }

    /// Starts it again when its pause is over.
    fn revive(&mut self) {
        if let State::Dead { until } = self.state
            && Instant::now() >= until
        {
            match self.program.start(self.cmdline) {
                Ok(pid) => self.state = State::Running { pid, since: Instant::now() },
                Err(why) => self.died(&format!("cannot be started: {why}")),
            }
        }
    }

    fn died(&mut self, how: &str) {
        say(format_args!("envd {how}; starting it again in {:?}", self.pause));
        self.state = State::Dead { until: Instant::now() + self.pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// Takes every dead child; notices when one was envd.
    fn reap(&mut self) {
        while let Ok(Some((dead, status))) = wait(WaitOptions::NOHANG) {
            if let State::Running { pid, since } = self.state
                && pid == dead
            {
                if since.elapsed() >= LIVED_WELL {
                    self.pause = FIRST_PAUSE;
                }
                self.died(&describe(status));
            }
        }
    }

    /// Sleeps until there is something to do. Whether the end was asked for.
    fn wait_for_signal(&self) -> io::Result<bool> {
        let timeout = match self.state {
            State::Running { .. } => None,
            State::Dead { until } => {
                let left = until.saturating_duration_since(Instant::now());
                Some(Timespec::try_from(left).map_err(io::Error::other)?)
            }
        };
        match poll(&mut [PollFd::new(&self.signals, PollFlags::IN)], timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        let mut end = false;
        while let Some(signal) = self.signals.read_signal()? {
            end |=
                i32::try_from(signal.ssi_signo).is_ok_and(|n| END_SIGNALS.iter().any(|end| *end as i32 == n));
        }
        Ok(end)
    }
}

/// Runs the machine until it ends.
pub(crate) fn forever(mut envd: Envd<'_>) -> Result<Infallible, Failure> {
    loop {
        if envd.wait_for_signal().attempt(|| "wait for signals".to_owned())? {
            say(format_args!("asked to end"));
            shutdown::stop_everything();
            shutdown::end_machine();
        }
        envd.reap();
        envd.revive();
    }
}

fn watch_signals() -> nix::Result<SignalFd> {
    let mut set: SigSet = END_SIGNALS.into_iter().collect();
    set.add(Signal::SIGCHLD);
    // Without this the three-finger salute of a console restarts the machine behind our back.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
