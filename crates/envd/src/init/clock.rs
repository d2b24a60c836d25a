//! The guest's clock follows the host's. After a resume it stands where it stood when the sandbox was paused.

use std::io;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, Timespec, clock_settime};

/// The host's clock, as far as it is known here.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostTime {
    sent: Timestamp,
    received: Instant,
}

/// How exact the clock must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// The machine runs on. Programs do not like steps, so it is left alone while it may be right: a request may have
    /// been on its way for a while.
    Loose,
    /// The machine was just booted or resumed: its clock is wrong anyway, and everybody in it expects a step now.
    Exact,
    /// A moment later. The request before may have been on its way for long, so that the clock is still behind: code and
    /// memory are brought back as they are used. It only ever goes forward.
    Settling,
}

impl Rule {
    /// How far the guest may be behind. The host's time was taken before the request was sent, so a guest that is right
    /// seems to be ahead, and one that seems to be behind is.
    fn max_behind(self) -> SignedDuration {
        match self {
            Self::Loose => SignedDuration::from_millis(50),
            Self::Exact | Self::Settling => SignedDuration::from_millis(2),
        }
    }

    /// How far the guest may be ahead.
    fn max_ahead(self) -> SignedDuration {
        match self {
            Self::Loose | Self::Settling => SignedDuration::from_secs(5),
            Self::Exact => SignedDuration::from_millis(5),
        }
    }
}

impl HostTime {
    /// The time that a request says, which came at this moment.
    pub(super) fn new(sent: Timestamp, received: Instant) -> Self {
        Self { sent, received }
    }

    /// What the host's clock shows at this moment, or a little more: the request took some time on its way here, and
    /// what it took after that is known.
    fn now(self) -> Timestamp {
        let since = SignedDuration::try_from(self.received.elapsed()).unwrap_or(SignedDuration::ZERO);
        self.sent.checked_add(since).unwrap_or(self.sent)
    }
}

/// Sets the clock when it is too far from the host's.
pub(super) fn follow(host: HostTime, rule: Rule) -> io::Result<()> {
    if !is_off(Timestamp::now(), host.now(), rule) {
        return Ok(());
    }
    let time = host.now();
    let time = Timespec { tv_sec: time.as_second(), tv_nsec: time.subsec_nanosecond().into() };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

fn is_off(guest: Timestamp, host: Timestamp, rule: Rule) -> bool {
    let ahead = guest.duration_since(host);
    ahead < -rule.max_behind() || ahead > rule.max_ahead()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn small_differences_are_left_alone() {
        let host = Timestamp::from_second(1_700_000_000).unwrap();
        for (milliseconds, loose, exact) in [
            (-100_000_000, true, true),
            (-51, true, true),
            (-50, false, true),
            (-3, false, true),
            (-2, false, false),
            (0, false, false),
            (5, false, false),
            (6, false, true),
            (5_000, false, true),
            (5_001, true, true),
        ] {
            let guest = host + SignedDuration::from_millis(milliseconds);
            assert_eq!(is_off(guest, host, Rule::Loose), loose, "{milliseconds} ms");
            assert_eq!(is_off(guest, host, Rule::Exact), exact, "{milliseconds} ms");
            let settling = if milliseconds < 0 { exact } else { loose };
            assert_eq!(is_off(guest, host, Rule::Settling), settling, "{milliseconds} ms");
        }
        for rule in [Rule::Loose, Rule::Exact] {
            assert!(
                is_off(Timestamp::MIN, Timestamp::MAX, rule) && is_off(Timestamp::MAX, Timestamp::MIN, rule)
            );
        }
    }

    #[test]
    fn the_time_a_request_waited_here_counts() {
        let sent = Timestamp::from_second(1_700_000_000).unwrap();
        let Some(received) = Instant::now().checked_sub(Duration::from_secs(3)) else { return };
        let waited = HostTime::new(sent, received).now().duration_since(sent);
        assert!((3.0..4.0).contains(&waited.as_secs_f64()), "{waited}");
        assert_eq!(HostTime::new(Timestamp::MAX, received).now(), Timestamp::MAX);
    }
}
