//! The body of a create: read, checked, and turned down where this version would have to ignore something.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{NetworkPolicy, OnTimeout};
use serde::Deserialize;
use serde_json::Value;

use super::network::Network;
use crate::error::{ApiError, shown};

/// Entries in a sandbox's metadata.
const METADATA_ENTRIES: usize = 256;
/// One key of the metadata, in bytes.
const METADATA_KEY: usize = 256;
/// All keys and values of the metadata together, in bytes. Every list repeats them for every sandbox.
const METADATA_TOTAL: usize = 64 << 10;
/// Environment variables.
const ENV_ENTRIES: usize = 512;
/// `NAME=value` in bytes: Linux takes 128 KiB with the closing NUL (`MAX_ARG_STRLEN`).
const ENV_ENTRY: usize = (128 << 10) - 1;
/// All variables together, in bytes: each process gets a copy.
const ENV_TOTAL: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewSandbox {
    #[serde(rename = "templateID")]
    template: String,
    timeout: Option<i64>,
    auto_pause: Option<bool>,
    auto_pause_memory: Option<bool>,
    auto_resume: Option<AutoResume>,
    secure: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    network: Option<Network>,
    metadata: Option<BTreeMap<String, String>>,
    env_vars: Option<BTreeMap<String, String>>,
    mcp: Option<Value>,
    iam: Option<Value>,
    volume_mounts: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct AutoResume {
    enabled: bool,
    /// Ours: a request may also boot the sandbox from its disk, where there is no memory to go on with.
    #[serde(default)]
    reboot: bool,
}

/// How the two versions of the request differ, and what bounds them.
pub(super) struct Rules {
    pub(super) default_timeout: Duration,
    pub(super) max_timeout: Duration,
    /// Every sandbox gets an access token, whether the client asks or not.
    pub(super) always_secure: bool,
}

/// A create that can be carried out as it was asked for.
pub(super) struct Checked {
    pub(super) template: String,
    pub(super) timeout: Duration,
    pub(super) secure: bool,
    pub(super) network: NetworkPolicy,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) on_timeout: OnTimeout,
    pub(super) auto_pause_memory: bool,
    pub(super) auto_resume: bool,
    pub(super) auto_resume_reboots: bool,
}

impl NewSandbox {
    pub(super) fn check(self, rules: &Rules) -> Result<Checked, ApiError> {
        self.refuse_what_is_missing()?;
        if self.template.is_empty() {
            return Err(ApiError::bad_request("templateID is empty: name a template, for example 'base'"));
        }
        let timeout = life(self.timeout, rules.default_timeout, rules.max_timeout)?;
        let secure = rules.always_secure || self.secure.unwrap_or(false);
        let network = self.network.unwrap_or_default().check(self.allow_internet_access)?;
        if !network.allow_public_traffic && !secure {
            return Err(ApiError::bad_request("network.allowPublicTraffic: false needs secure: true"));
        }
        let metadata = self.metadata.unwrap_or_default();
        check_metadata(&metadata)?;
        let env = self.env_vars.unwrap_or_default();
        check_env(&env)?;
        let on_timeout = if self.auto_pause == Some(true) { OnTimeout::Pause } else { OnTimeout::Kill };
        let auto_pause_memory = self.auto_pause_memory != Some(false);
        let auto_resume = self.auto_resume.as_ref().is_some_and(|auto| auto.enabled);
        let auto_resume_reboots = auto_resume && self.auto_resume.is_some_and(|auto| auto.reboot);
        let template = self.template;
        Ok(Checked {
            template,
            timeout,
            secure,
            network,
            metadata,
            env,
            on_timeout,
            auto_pause_memory,
            auto_resume,
            auto_resume_reboots,
        })
    }

    /// What a client asked for and this version cannot do must not be ignored. What clients send by default, such as
    /// `autoPause: false`, is no such thing.
    fn refuse_what_is_missing(&self) -> Result<(), ApiError> {
        if self.auto_pause_memory == Some(false) {
            if self.auto_pause != Some(true) {
                return Err(ApiError::bad_request("autoPauseMemory: false needs autoPause: true"));
            }
            if self.auto_resume.as_ref().is_some_and(|auto| auto.enabled && !auto.reboot) {
                let message = "autoPauseMemory: false excludes autoResume, unless autoResume.reboot is true";
                return Err(ApiError::bad_request(message));
            }
        }
        if !self.mcp.as_ref().is_none_or(Value::is_null) {
            return Err(unsupported("mcp", "the MCP gateway"));
        }
        let asks = |iam: &Value| !iam.as_object().is_some_and(|fields| fields.values().all(is_empty));
        if self.iam.as_ref().is_some_and(|iam| !iam.is_null() && asks(iam)) {
            return Err(unsupported("iam", "workload identity"));
        }
        if self.volume_mounts.as_ref().is_some_and(|mounts| !mounts.is_empty()) {
            return Err(unsupported("volumeMounts", "volumes"));
        }
        Ok(())
    }
}

pub(super) fn unsupported(field: &str, what: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{field}: this version of Coldframe does not support {what}; leave the field out"
    ))
}

/// An empty list or map asks for nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// How long a new sandbox lives.
pub(super) fn life(seconds: Option<i64>, default: Duration, max: Duration) -> Result<Duration, ApiError> {
    match seconds {
        None => Ok(default.min(max)),
        Some(..=0) => Err(ApiError::bad_request("timeout must be at least 1 second")),
        Some(seconds) => timeout("timeout", seconds, max),
    }
}

/// A number of seconds from zero to `max`.
pub(super) fn timeout(field: &str, seconds: i64, max: Duration) -> Result<Duration, ApiError> {
    let given = u64::try_from(seconds).map(Duration::from_secs);
    given.ok().filter(|&given| given <= max).ok_or_else(|| {
        let max = max.as_secs();
        ApiError::bad_request(format!("{field} must be from 0 to {max} seconds, not {seconds}"))
    })
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if metadata.len() > METADATA_ENTRIES {
        let message =
            format!("metadata has {} entries; at most {METADATA_ENTRIES} are allowed", metadata.len());
        return Err(ApiError::bad_request(message));
    }
    if let Some(key) = metadata.keys().find(|key| key.len() > METADATA_KEY) {
        let message = format!("a metadata key has {} bytes; at most {METADATA_KEY} are allowed", key.len());
        return Err(ApiError::bad_request(message));
    }
    let total: usize = metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > METADATA_TOTAL {
        let message = format!("metadata has {total} bytes; at most {METADATA_TOTAL} are allowed");
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if env.len() > ENV_ENTRIES {
        let message = format!("envVars has {} entries; at most {ENV_ENTRIES} are allowed", env.len());
        return Err(ApiError::bad_request(message));
    }
    let mut total = 0;
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = "envVars: a name must not be empty and must not contain '=' or NUL";
            return Err(ApiError::bad_request(message));
        }
        if value.contains('\0') {
            let message = format!("envVars: the value of '{}' contains NUL", shown(name));
            return Err(ApiError::bad_request(message));
        }
        let size = name.len() + 1 + value.len();
        if size > ENV_ENTRY {
            let name = shown(name);
            let message = format!("envVars: '{name}' takes {size} bytes; at most {ENV_ENTRY} are allowed");
            return Err(ApiError::bad_request(message));
        }
        total += size;
    }
    if total > ENV_TOTAL {
        let message = format!("envVars take {total} bytes; at most {ENV_TOTAL} are allowed");
        return Err(ApiError::bad_request(message));
    }
    Ok(())
}
