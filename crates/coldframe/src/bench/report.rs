//! How measurements are printed.

use std::fs;
use std::time::Duration;

/// Says what was run and where.
pub(crate) fn heading() {
    let command: Vec<String> = std::env::args().collect();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("command  {}", command.join(" "));
    println!("host     {} x {}, Linux {}", cores, model.unwrap_or("unknown processor"), kernel.trim());
    println!("load     {}", load.trim());
}

/// Times of one thing, and of the floor beside it.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which this share of the samples lies.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// How many times as long as the floor, at the median.
    pub(crate) fn ratio(&self, floor: &Self) -> f64 {
        self.percentile(50).as_secs_f64() / floor.percentile(50).as_secs_f64().max(f64::EPSILON)
    }

    /// The median in milliseconds.
    pub(crate) fn p50_ms(&self) -> f64 {
        self.percentile(50).as_secs_f64() * 1e3
    }

    /// One line of percentiles.
    pub(crate) fn print(&self, name: &str) {
        self.print_in(name, "ms", 1e3);
    }

    /// The same for what takes microseconds.
    pub(crate) fn print_micros(&self, name: &str) {
        self.print_in(name, "us", 1e6);
    }

    fn print_in(&self, name: &str, unit: &str, per_second: f64) {
        let value = |percent| format!("{:.3}", self.percentile(percent).as_secs_f64() * per_second);
        println!(
            "{name:<34} p50 {:>9} {unit}   p95 {:>9} {unit}   p99 {:>9} {unit}   n={}",
            value(50),
            value(95),
            value(99),
            self.0.len()
        );
    }

    /// Every sample, in the order in which it was taken.
    pub(crate) fn print_raw(&self, name: &str) {
        let raw: Vec<String> = self.0.iter().map(|sample| millis(*sample)).collect();
        println!("raw {name} (ms): {}", raw.join(" "));
    }
}

fn millis(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64() * 1e3)
}

/// Gigabytes a second.
pub(crate) fn gigabytes(bytes: u64, time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let bytes = bytes as f64;
    bytes / 1e9 / time.as_secs_f64().max(f64::EPSILON)
}

/// A figure beside its bar.
pub(crate) fn bar(name: &str, value: f64, unit: &str, holds: bool, bar: &str) {
    println!("{name:<34} {value:>9.2} {unit:<8} bar {bar:<12} {}", if holds { "holds" } else { "MISSED" });
}
