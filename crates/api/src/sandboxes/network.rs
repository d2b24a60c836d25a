//! The `network` part of a create.

use model::NetworkPolicy;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::request::{is_empty, unsupported};
use crate::error::{ApiError, shown};

/// A host name with port, and room for `${PORT}`.
const MASK_BYTES: usize = 300;

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Network {
    allow_public_traffic: Option<bool>,
    mask_request_host: Option<String>,
    /// Everything else. Each such field restricts or redirects traffic, so none may be overlooked.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Network {
    pub(super) fn check(self, allow_internet: Option<bool>) -> Result<NetworkPolicy, ApiError> {
        if let Some((name, _)) = self.rest.iter().find(|(_, value)| !is_empty(value)) {
            return Err(unsupported(&format!("network.{}", shown(name)), "it"));
        }
        let mask_request_host = self.mask_request_host.filter(|mask| !mask.is_empty());
        if let Some(mask) = &mask_request_host {
            check_mask(mask)?;
        }
        Ok(NetworkPolicy {
            allow_internet: allow_internet.unwrap_or(true),
            allow_public_traffic: self.allow_public_traffic.unwrap_or(true),
            mask_request_host,
        })
    }
}

/// It becomes a header of every request, so it must be able to be one.
fn check_mask(mask: &str) -> Result<(), ApiError> {
    let bare = mask.replace("${PORT}", "");
    let ok = mask.len() <= MASK_BYTES
        && bare
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'[' | b']'));
    if ok {
        return Ok(());
    }
    let shown = shown(mask);
    Err(ApiError::bad_request(format!(
        "network.maskRequestHost must be a host name with an optional port (a number or ${{PORT}}), not '{shown}'"
    )))
}
