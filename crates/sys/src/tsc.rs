//! The frequency of the processor's time stamp counter.
//!
//! The kernel knows it and does not tell: "cpu MHz" in `/proc/cpuinfo` follows power saving. So it is measured, against
//! the clock that nothing adjusts.

use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The shortest time between two readings. An error of 200 ns in it is 10 parts per million, the tolerance of the
/// crystals that clocks are made of.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// How many readings are taken for each sample; the least disturbed one counts.
const READINGS: usize = 8;

/// A moment on both clocks. Take it early and ask for the frequency later: the measurement then costs no time.
#[derive(Debug, Clone, Copy)]
pub struct TscSample {
    counter: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC_RAW`.
    nanoseconds: i128,
}

impl TscSample {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        let read = || {
            let before = raw_nanoseconds();
            let counter = time_stamp();
            let after = raw_nanoseconds();
            (after - before, Self { counter, nanoseconds: before + (after - before) / 2 })
        };
        let mut best = read();
        for _ in 1..READINGS {
            let next = read();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }

    /// How long to wait until [`TscSample::khz_since`] is precise; zero when it is.
    #[must_use]
    pub fn wait(self) -> Duration {
        let elapsed = u64::try_from(raw_nanoseconds() - self.nanoseconds).unwrap_or(u64::MAX);
        MIN_INTERVAL.saturating_sub(Duration::from_nanos(elapsed))
    }

    /// The counter's frequency in kHz, from this moment until now. Blocks for the time that [`TscSample::wait`] tells.
    ///
    /// `None` where there is no such counter, or what it counts is not plausible.
    #[must_use]
    pub fn khz_since(self) -> Option<u32> {
        thread::sleep(self.wait());
        let now = Self::now();
        let ticks = i128::from(now.counter.checked_sub(self.counter)?);
        let khz = ticks * 1_000_000 / (now.nanoseconds - self.nanoseconds).max(1);
        // Real counters run between 0.5 and 6 GHz.
        u32::try_from(khz).ok().filter(|khz| (100_000..20_000_000).contains(khz))
    }
}

fn raw_nanoseconds() -> i128 {
    let time = clock_gettime(ClockId::MonotonicRaw);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[cfg(target_arch = "x86_64")]
fn time_stamp() -> u64 {
    // SAFETY: the instruction exists on every x86-64 processor and only reads a counter. Linux never forbids it to
    // processes that did not ask for that with prctl(PR_SET_TSC).
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn time_stamp() -> u64 {
    0
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let first = TscSample::now().khz_since().unwrap();
        let second = TscSample::now().khz_since().unwrap();
        let difference = f64::from(first.abs_diff(second)) / f64::from(first);
        assert!(difference < 0.001, "{first} kHz and {second} kHz");
    }
}
