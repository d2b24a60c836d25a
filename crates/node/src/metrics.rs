//! Counters of one node, for Prometheus.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::compaction::Outcome;
use crate::reboot::Cause;

/// Why a sandbox ended, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: String,
}

/// Why a sandbox was booted from its disk, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RebootCause {
    cause: &'static str,
}

/// What came of a compaction, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CompactionOutcome {
    outcome: &'static str,
}

/// What a node counts. Cheap to clone: the clones count together.
#[derive(Debug, Clone, Default)]
pub struct NodeMetrics {
    started: Counter,
    ended: Family<Why, Counter>,
    rebooted: Family<RebootCause, Counter>,
    running: Gauge,
    forced: Counter,
    compactions: Family<CompactionOutcome, Counter>,
    compacted: Counter,
}

impl NodeMetrics {
    /// Makes the counters visible in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("coldframe_sandboxes_started", "Sandboxes that became ready", self.started.clone());
        registry.register("coldframe_sandboxes_ended", "Sandboxes that ended, by reason", self.ended.clone());
        registry.register(
            "coldframe_sandboxes_rebooted",
            "Sandboxes that were booted from their disk in place of going on with their memory, by cause",
            self.rebooted.clone(),
        );
        registry.register("coldframe_sandboxes_running", "Sandboxes that run now", self.running.clone());
        registry.register(
            "coldframe_cgroup_forced_removals",
            "Control groups that were still busy when their sandbox had ended",
            self.forced.clone(),
        );
        registry.register(
            "coldframe_compactions",
            "Builds of paused sandboxes that were made again to free space, by outcome",
            self.compactions.clone(),
        );
        registry.register(
            "coldframe_compacted_bytes",
            "Bytes of pages that compactions wrote again",
            self.compacted.clone(),
        );
    }

    pub(crate) fn started(&self) {
        self.started.inc();
        self.running.inc();
    }

    pub(crate) fn adopted(&self) {
        self.running.inc();
    }

    pub(crate) fn ended(&self, why: &model::EndReason, had_run: bool) {
        use model::EndReason as E;
        let reason = match why {
            E::Killed => "killed",
            E::TimedOut => "timed_out",
            E::GuestExited => "guest_exited",
            E::StartFailed(_) => "start_failed",
            E::VmmDied(_) => "vmm_died",
            E::MemoryUnusable(_) => "memory_unusable",
            E::SupervisorDied => "supervisor_died",
            E::Paused(_) => "paused",
        };
        self.ended.get_or_create(&Why { reason: reason.into() }).inc();
        if had_run {
            self.running.dec();
        }
    }

    pub(crate) fn rebooted(&self, cause: &Cause) {
        self.rebooted.get_or_create(&RebootCause { cause: cause.label() }).inc();
    }

    pub(crate) fn compacted(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Committed { copied } => {
                self.compacted.inc_by(copied);
                "committed"
            }
            Outcome::Overtaken => "overtaken",
        };
        self.compactions.get_or_create(&CompactionOutcome { outcome }).inc();
    }

    pub(crate) fn compaction_failed(&self) {
        self.compactions.get_or_create(&CompactionOutcome { outcome: "failed" }).inc();
    }

    pub(crate) fn cgroup_forced(&self) {
        self.forced.inc();
    }
}
