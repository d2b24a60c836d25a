//! `GET /metrics`: how much of the guest is in use.

use std::fs;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use rustix::fs::statvfs;
use serde::Serialize;

use crate::error::HttpError;
use crate::state::Envd;

/// The route.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(state)
}

/// What was used when it was last asked for.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    last: Mutex<CpuTime>,
}

/// Time in ticks since the guest booted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct CpuTime {
    busy: u64,
    total: u64,
}

/// The answer. Sizes are in bytes unless the name says otherwise.
#[derive(Debug, Serialize, PartialEq)]
struct Metrics {
    /// Unix time in seconds.
    ts: i64,
    cpu_count: usize,
    /// Percent of all processors since the last request, two decimals.
    cpu_used_pct: f64,
    mem_total: u64,
    mem_used: u64,
    mem_cache: u64,
    mem_total_mib: u64,
    mem_used_mib: u64,
    disk_used: u64,
    disk_total: u64,
}

async fn metrics(State(envd): State<Arc<Envd>>) -> Result<Json<Metrics>, HttpError> {
    let failed = |error: std::io::Error| HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    let stat = fs::read_to_string("/proc/stat").map_err(failed)?;
    let memory = Memory::parse(&fs::read_to_string("/proc/meminfo").map_err(failed)?);
    let disk = statvfs("/").map_err(|errno| failed(errno.into()))?;
    Ok(Json(Metrics {
        ts: jiff::Timestamp::now().as_second(),
        cpu_count: stat.lines().filter(|line| is_processor(line)).count(),
        cpu_used_pct: envd.cpu_meter().used_percent(CpuTime::parse(&stat)),
        mem_total: memory.total,
        mem_used: memory.used(),
        mem_cache: memory.cache,
        mem_total_mib: memory.total >> 20,
        mem_used_mib: memory.used() >> 20,
        disk_used: disk.f_blocks.saturating_sub(disk.f_bavail).saturating_mul(disk.f_frsize),
        disk_total: disk.f_blocks.saturating_mul(disk.f_frsize),
    }))
}

/// `cpu0 …`, but not the sum, `cpu …`.
fn is_processor(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

impl CpuMeter {
    fn used_percent(&self, now: CpuTime) -> f64 {
        let last = std::mem::replace(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner), now);
        let total = now.total.saturating_sub(last.total);
        let busy = now.busy.saturating_sub(last.busy).min(total);
        if total == 0 {
            return 0.0;
        }
        // Whole hundredths of a percent.
        #[allow(clippy::cast_precision_loss, reason = "at most 10,000")]
        let hundredths = (u128::from(busy) * 10_000 / u128::from(total)) as f64;
        hundredths / 100.0
    }
}

impl CpuTime {
    /// The line `cpu user nice system idle iowait irq softirq steal …`. What comes after is contained in the first two.
    fn parse(stat: &str) -> Self {
        let Some(line) = stat.lines().find_map(|line| line.strip_prefix("cpu ")) else {
            return Self::default();
        };
        let times: Vec<u64> =
            line.split_ascii_whitespace().take(8).map_while(|time| time.parse().ok()).collect();
        let total = times.iter().sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        Self { busy: total - idle, total }
    }
}

/// Bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
    cache: u64,
}

impl Memory {
    fn parse(meminfo: &str) -> Self {
        let mut memory = Self::default();
        for line in meminfo.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim().strip_suffix("kB").and_then(|value| value.trim().parse::<u64>().ok());
            let bytes = value.unwrap_or(0).saturating_mul(1024);
            match name {
                "MemTotal" => memory.total = bytes,
                "MemAvailable" => memory.available = bytes,
                "Cached" | "SReclaimable" => memory.cache += bytes,
                _ => {}
            }
        }
        memory
    }

    fn used(&self) -> u64 {
        self.total.saturating_sub(self.available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_and_timed() {
        let stat = "cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1\ncpu1 2\ncpufreq 1\nintr 1\n";
        assert_eq!(CpuTime::parse(stat), CpuTime { busy: 150, total: 1000 });
        assert_eq!(stat.lines().filter(|line| is_processor(line)).count(), 2);
        assert_eq!(CpuTime::parse(""), CpuTime::default());
        let meter = CpuMeter::default();
        assert!((meter.used_percent(CpuTime { busy: 150, total: 1000 }) - 15.0).abs() < 1e-9);
        assert!((meter.used_percent(CpuTime { busy: 151, total: 1300 }) - 0.33).abs() < 1e-9);
        assert!(meter.used_percent(CpuTime { busy: 151, total: 1300 }).abs() < 1e-9);
        assert!(meter.used_percent(CpuTime::default()).abs() < 1e-9, "a clock that goes back is no use");
    }

    #[test]
    fn memory_is_what_is_not_available() {
        let memory = Memory::parse(
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nCached: 20 kB\nSReclaimable: 3 kB\n",
        );
        assert_eq!(memory, Memory { total: 1_024_000, available: 614_400, cache: 23_552 });
        assert_eq!(memory.used(), 409_600);
        assert_eq!(Memory::parse("nonsense").used(), 0);
    }
}
