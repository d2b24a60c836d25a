//! The guest's clock follows the host's. After a resume it stands where it stood when the sandbox was paused.

use std::io;

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, Timespec, clock_settime};

/// How far the guest may be behind. The host's time was taken before the request was sent, so a guest that is right
/// seems to be ahead, and one that seems to be behind is.
const MAX_BEHIND: SignedDuration = SignedDuration::from_millis(50);
/// How far the guest may be ahead. A request may have been on its way for a while.
const MAX_AHEAD: SignedDuration = SignedDuration::from_secs(5);

/// Sets the clock when it is too far from the host's.
pub(super) fn follow(host: Timestamp) -> io::Result<()> {
    if !is_off(Timestamp::now(), host) {
        return Ok(());
    }
    let time = Timespec { tv_sec: host.as_second(), tv_nsec: host.subsec_nanosecond().into() };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

fn is_off(guest: Timestamp, host: Timestamp) -> bool {
    let ahead = guest.duration_since(host);
    ahead < -MAX_BEHIND || ahead > MAX_AHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_differences_are_left_alone() {
        let host = Timestamp::from_second(1_700_000_000).unwrap();
        for (milliseconds, expected) in
            [(-51, true), (-50, false), (0, false), (5_000, false), (5_001, true), (-100_000_000, true)]
        {
            let guest = host + SignedDuration::from_millis(milliseconds);
            assert_eq!(is_off(guest, host), expected, "{milliseconds} ms");
        }
        assert!(is_off(Timestamp::MIN, Timestamp::MAX) && is_off(Timestamp::MAX, Timestamp::MIN));
    }
}
