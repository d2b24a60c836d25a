//! Sandboxes as clients see them. Every field that a client's schema calls required is always there.

use std::collections::BTreeMap;

use catalog::Snapshot;
use jiff::Timestamp;
use model::{LogEntry, MetricSample, OnTimeout, SandboxRecord};
use serde::Serialize;

use crate::error::ErrorBody;

/// RFC 3339 in UTC with microseconds, the most that Python's parser keeps.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// The answer to creating and connecting: what a client needs to reach the sandbox.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sandbox<'a> {
    #[serde(rename = "templateID")]
    template_id: &'a str,
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    envd_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<&'a str>,
    traffic_access_token: Option<&'a str>,
    domain: Option<&'a str>,
}

impl<'a> Sandbox<'a> {
    pub(crate) fn new(record: &'a SandboxRecord, domain: Option<&'a str>) -> Self {
        let spec = &record.spec;
        Self {
            template_id: spec.template.as_str(),
            sandbox_id: spec.id.as_str(),
            client_id: model::CLIENT_ID,
            envd_version: &record.envd_version,
            alias: spec.alias.as_deref(),
            envd_access_token: spec.envd_token.as_ref().map(model::Secret::expose),
            traffic_access_token: spec.traffic_token.as_ref().map(model::Secret::expose),
            domain,
        }
    }
}

/// What became of one of the sandboxes that a fork was to make: `{"sandbox"}` or `{"error"}`.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Forked<'a> {
    Sandbox(Sandbox<'a>),
    Error(ErrorBody<'a>),
}

/// A snapshot, by what it is called; a create takes either.
#[derive(Serialize)]
pub(crate) struct SnapshotInfo {
    #[serde(rename = "snapshotID")]
    snapshot_id: String,
    names: Vec<String>,
}

impl From<&Snapshot> for SnapshotInfo {
    fn from(snapshot: &Snapshot) -> Self {
        Self { snapshot_id: snapshot.id(), names: snapshot.name().into_iter().collect() }
    }
}

/// One line of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedSandbox<'a> {
    #[serde(rename = "templateID")]
    template_id: &'a str,
    #[serde(rename = "sandboxID")]
    sandbox_id: &'a str,
    #[serde(rename = "clientID")]
    client_id: &'static str,
    started_at: String,
    end_at: String,
    cpu_count: u8,
    #[serde(rename = "memoryMB")]
    memory_mib: u32,
    #[serde(rename = "diskSizeMB")]
    disk_mib: u32,
    state: &'static str,
    envd_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<&'a str>,
    metadata: &'a BTreeMap<String, String>,
    volume_mounts: [(); 0],
}

impl<'a> ListedSandbox<'a> {
    pub(crate) fn new(record: &'a SandboxRecord) -> Self {
        let spec = &record.spec;
        Self {
            template_id: spec.template.as_str(),
            sandbox_id: spec.id.as_str(),
            client_id: model::CLIENT_ID,
            started_at: rfc3339(spec.started_at),
            end_at: rfc3339(record.end_at),
            cpu_count: spec.shape.vcpus.0,
            memory_mib: spec.shape.memory.0,
            disk_mib: spec.shape.disk.0,
            state: record.state.as_str(),
            envd_version: &record.envd_version,
            alias: spec.alias.as_deref(),
            metadata: &spec.metadata,
            volume_mounts: [],
        }
    }
}

/// Everything about one sandbox.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxDetail<'a> {
    #[serde(flatten)]
    listed: ListedSandbox<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    envd_access_token: Option<&'a str>,
    allow_internet_access: bool,
    domain: Option<&'a str>,
    network: Network<'a>,
    lifecycle: Lifecycle,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Network<'a> {
    allow_public_traffic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    mask_request_host: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Lifecycle {
    auto_resume: bool,
    on_timeout: &'static str,
}

impl<'a> SandboxDetail<'a> {
    pub(crate) fn new(record: &'a SandboxRecord, domain: Option<&'a str>) -> Self {
        let spec = &record.spec;
        Self {
            listed: ListedSandbox::new(record),
            envd_access_token: spec.envd_token.as_ref().map(model::Secret::expose),
            allow_internet_access: spec.network.allow_internet,
            domain,
            network: Network {
                allow_public_traffic: spec.network.allow_public_traffic,
                mask_request_host: spec.network.mask_request_host.as_deref(),
            },
            lifecycle: Lifecycle {
                auto_resume: spec.auto_resume,
                on_timeout: match spec.on_timeout {
                    OnTimeout::Kill => "kill",
                    OnTimeout::Pause => "pause",
                },
            },
        }
    }
}

/// One sample; sizes in bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SandboxMetric {
    timestamp: String,
    timestamp_unix: i64,
    cpu_count: u32,
    cpu_used_pct: f32,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

impl From<MetricSample> for SandboxMetric {
    fn from(sample: MetricSample) -> Self {
        Self {
            timestamp: rfc3339(sample.timestamp),
            timestamp_unix: sample.timestamp.as_second(),
            cpu_count: sample.cpu_count,
            // JSON has no word for what is not a number, and a client cannot do without one.
            cpu_used_pct: if sample.cpu_used_pct.is_finite() { sample.cpu_used_pct } else { 0.0 },
            mem_used: sample.mem_used,
            mem_total: sample.mem_total,
            mem_cache: sample.mem_cache,
            disk_used: sample.disk_used,
            disk_total: sample.disk_total,
        }
    }
}

/// One line of output with its parts apart.
#[derive(Serialize)]
pub(crate) struct LogLine<'a> {
    timestamp: String,
    message: &'a str,
    level: &'static str,
    fields: BTreeMap<&'a str, &'a str>,
}

impl<'a> LogLine<'a> {
    pub(crate) fn new(entry: &'a LogEntry) -> Self {
        let mut fields: BTreeMap<_, _> =
            entry.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        fields.insert("logger", entry.source.as_str());
        Self {
            timestamp: rfc3339(entry.timestamp),
            message: &entry.message,
            level: entry.level.as_str(),
            fields,
        }
    }
}

/// One line of output the older way: a JSON object as text, in which the CLI needs `level` and `logger`.
#[derive(Serialize)]
pub(crate) struct RawLogLine {
    timestamp: String,
    line: String,
}

impl RawLogLine {
    pub(crate) fn new(entry: &LogEntry) -> Self {
        let mut line = serde_json::Map::new();
        for (name, value) in &entry.fields {
            line.insert(name.clone(), value.as_str().into());
        }
        line.insert("level".into(), entry.level.as_str().into());
        line.insert("logger".into(), entry.source.as_str().into());
        line.insert("message".into(), entry.message.as_str().into());
        let timestamp = rfc3339(entry.timestamp);
        Self { timestamp, line: serde_json::Value::Object(line).to_string() }
    }
}
