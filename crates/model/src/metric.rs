//! What a sandbox used at one moment.

use serde::{Deserialize, Serialize};

/// One sample, taken every five seconds while a sandbox runs. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MetricSample {
    /// When it was taken, by the host's clock.
    pub timestamp: jiff::Timestamp,
    /// Virtual processors.
    pub cpu_count: u32,
    /// Use of all processors together since the sample before, 0 to 100 per processor.
    pub cpu_used_pct: f32,
    /// Memory in use: total minus available.
    pub mem_used: u64,
    /// All memory the guest sees.
    pub mem_total: u64,
    /// Page cache and reclaimable slab.
    pub mem_cache: u64,
    /// Used space of the root file system.
    pub disk_used: u64,
    /// Size of the root file system.
    pub disk_total: u64,
}
