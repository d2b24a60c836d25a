//! The second life: everything after the boot.
//!
//! One thread, one wait. A child died: reap it, and if it was envd, start it again after a pause that doubles while
//! envd keeps dying young. A signal that asks for the end: end the machine.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::cmdline::Cmdline;
use crate::console::{Timeline, say};
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

enum Envd {
    Running { pid: Pid, since: Instant, pause: Duration },
    Dead { until: Instant, pause: Duration },
}

/// Runs the machine until it ends.
pub(crate) fn forever(
    program: &Program,
    cmdline: &Cmdline,
    mut timeline: Timeline,
) -> Result<Infallible, Failure> {
    let signals = watch_signals().attempt(|| "watch for signals".to_owned())?;
    say(format_args!("starting envd"));
    let mut envd = start(program, cmdline, FIRST_PAUSE);
    timeline.mark("envd");
    say(format_args!("{timeline}"));
    loop {
        if wait_for_signal(&signals, &envd).attempt(|| "wait for signals".to_owned())? {
            say(format_args!("asked to end"));
            shutdown::stop_everything();
            shutdown::end_machine();
        }
        reap(&mut envd);
        if let Envd::Dead { until, pause } = envd
            && Instant::now() >= until
        {
            envd = start(program, cmdline, pause);
        }
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

/// Sleeps until there is something to do. Whether the end was asked for.
fn wait_for_signal(signals: &SignalFd, envd: &Envd) -> std::io::Result<bool> {
    let timeout = match envd {
        Envd::Running { .. } => None,
        Envd::Dead { until, .. } => {
            let left = until.saturating_duration_since(Instant::now());
            Some(Timespec::try_from(left).map_err(std::io::Error::other)?)
        }
    };
    match poll(&mut [PollFd::new(signals, PollFlags::IN)], timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(why) => return Err(why.into()),
    }
    let mut end = false;
    while let Some(signal) = signals.read_signal()? {
        end |= i32::try_from(signal.ssi_signo)
            .is_ok_and(|n| END_SIGNALS.iter().any(|wanted| *wanted as i32 == n));
    }
    Ok(end)
}

/// Takes every dead child; notices when one was envd.
fn reap(envd: &mut Envd) {
    while let Ok(Some((dead, status))) = wait(WaitOptions::NOHANG) {
        if let Envd::Running { pid, since, pause } = *envd
            && pid == dead
        {
            let lived = since.elapsed();
            let pause = if lived >= LIVED_WELL { FIRST_PAUSE } else { pause };
            say(format_args!("envd {}; starting it again in {pause:?}", describe(status)));
            *envd = Envd::Dead { until: Instant::now() + pause, pause: longer(pause) };
        }
    }
}

fn start(program: &Program, cmdline: &Cmdline, pause: Duration) -> Envd {
    match program.start(cmdline) {
        Ok(pid) => Envd::Running { pid, since: Instant::now(), pause },
        Err(why) => {
            say(format_args!("cannot start envd: {why}; trying again in {pause:?}"));
            Envd::Dead { until: Instant::now() + pause, pause: longer(pause) }
        }
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
