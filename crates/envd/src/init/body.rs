//! What a request to `/init` says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use guest_init::machine_name;
use serde::{Deserialize, Deserializer};
use sys::entropy::MAX_SEED_BYTES;

use super::pem;
use super::volumes::{self, Volume};

/// The body of a request. What is not known is ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct InitBody {
    /// The access token from now on.
    pub(super) access_token: Option<String>,
    /// Variables of every process. Replaces the earlier ones when present.
    pub(super) env_vars: Option<BTreeMap<String, String>>,
    /// The host's clock when it sent this. A request older than one that was accepted changes nothing.
    pub(super) timestamp: Option<jiff::Timestamp>,
    /// The user that requests without a user act for.
    pub(super) default_user: Option<String>,
    /// Where processes start and empty paths lead.
    pub(super) default_workdir: Option<String>,
    /// Names the time between a boot or resume and the next pause.
    #[serde(rename = "lifecycleID")]
    pub(super) lifecycle_id: Option<String>,
    #[serde(rename = "hyperloopIP")]
    hyperloop_ip: Option<String>,
    /// Where the host's own services are, for the sandbox.
    #[serde(skip)]
    pub(super) hyperloop: Option<IpAddr>,
    /// Network volumes to mount.
    #[serde(deserialize_with = "null_is_empty")]
    pub(super) volume_mounts: Vec<Volume>,
    /// Certificates to trust, written in one way.
    pub(super) ca_bundle: Option<String>,
    /// What the machine is called from now on. Ours, as the following: E2B's daemon asks a metadata service.
    pub(super) hostname: Option<String>,
    /// Bytes that nobody can guess, in hex.
    entropy: Option<String>,
    /// The same, decoded.
    #[serde(skip)]
    pub(super) seed: Vec<u8>,
    /// The id of this sandbox.
    pub(super) sandbox_id: Option<String>,
    /// The template of this sandbox.
    pub(super) template_id: Option<String>,
}

impl InitBody {
    /// Reads a body; an empty one says nothing.
    ///
    /// # Errors
    /// What is wrong with it, for people. No part of the body is in it.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        if body.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        // Lists would be read as the fields in their order.
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err("cannot read the request: it is not a JSON object".into());
        }
        let mut body: Self = serde_json::from_slice(body).map_err(|error| {
            format!("cannot read the request: line {} column {}", error.line(), error.column())
        })?;
        if body.access_token.as_ref().is_some_and(String::is_empty) {
            return Err("an access token must not be empty".into());
        }
        for (name, value) in body.env_vars.iter().flatten() {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!("{name:?} cannot be set as an environment variable"));
            }
        }
        if body.hostname.as_deref().is_some_and(|name| !machine_name::is_valid(name)) {
            return Err("a host name must be 1 to 63 letters, digits, dots or hyphens".into());
        }
        if let Some(ip) = body.hyperloop_ip.take().filter(|ip| !ip.is_empty()) {
            body.hyperloop =
                Some(ip.parse().map_err(|_| format!("hyperloopIP {ip:?} is not an IP address"))?);
        }
        volumes::check(&body.volume_mounts)?;
        if let Some(bundle) = body.ca_bundle.take().filter(|bundle| !bundle.is_empty()) {
            body.ca_bundle = Some(pem::normalise(&bundle).map_err(|error| format!("caBundle: {error}"))?);
        }
        if let Some(hex) = body.entropy.take() {
            body.seed = decode(&hex).ok_or_else(|| {
                format!("entropy must be hex digits, two for each of at most {MAX_SEED_BYTES} bytes")
            })?;
        }
        Ok(body)
    }
}

fn null_is_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Volume>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn decode(hex: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let (pairs, []) = hex.as_bytes().as_chunks() else { return None };
    if pairs.len() > MAX_SEED_BYTES {
        return None;
    }
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_optional_and_unknown_ones_are_ignored() {
        for empty in [
            "",
            " \n",
            "{}",
            r#"{"accessToken":null,"volumeMounts":[],"caBundle":"","hyperloopIP":"","new":1}"#,
            r#"{"volumeMounts":null}"#,
        ] {
            assert!(InitBody::parse(empty.as_bytes()).unwrap().access_token.is_none());
        }
        let body = InitBody::parse(
            br#"{"accessToken":"t","envVars":{"A":"1"},"timestamp":"2026-01-02T03:04:05.678Z","defaultUser":"u",
                 "defaultWorkdir":"/w","lifecycleID":"l","sandboxId":"s","templateId":"b",
                 "hostname":"i0abc","entropy":"00fFa1"}"#,
        )
        .unwrap();
        assert_eq!(body.access_token.as_deref(), Some("t"));
        assert_eq!(body.env_vars.unwrap()["A"], "1");
        assert_eq!(body.timestamp.unwrap().as_millisecond(), 1_767_323_045_678);
        assert_eq!(body.default_user.as_deref(), Some("u"));
        assert_eq!(body.default_workdir.as_deref(), Some("/w"));
        assert_eq!(body.lifecycle_id.as_deref(), Some("l"));
        assert_eq!(body.sandbox_id.as_deref(), Some("s"));
        assert_eq!(body.template_id.as_deref(), Some("b"));
        assert_eq!(body.hostname.as_deref(), Some("i0abc"));
        assert_eq!(body.seed, [0, 0xff, 0xa1]);
    }

    #[test]
    fn nonsense_is_refused_without_repeating_secrets() {
        for body in [
            "[",
            "[]",
            r#"{"accessToken":"secret"#,
            r#"{"accessToken":["secret"]}"#,
            r#"{"timestamp":"secret"}"#,
        ] {
            let error = InitBody::parse(body.as_bytes()).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
        }
        for entropy in ["0", "0g", "\u{fc}", "+1", &"00".repeat(MAX_SEED_BYTES + 1)] {
            let error = InitBody::parse(format!(r#"{{"entropy":"{entropy}"}}"#).as_bytes()).unwrap_err();
            assert!(error.contains("hex digits"), "{error}");
        }
        let longest = format!(r#"{{"entropy":"{}"}}"#, "00".repeat(MAX_SEED_BYTES));
        assert_eq!(InitBody::parse(longest.as_bytes()).unwrap().seed.len(), MAX_SEED_BYTES);
        for (body, part) in [
            (r#"{"hyperloopIP":"events"}"#, "not an IP address"),
            (r#"{"caBundle":"secret"}"#, "caBundle: there is no certificate"),
            (r#"{"volumeMounts":[{"nfs_target":"a:/b","path":"c"}]}"#, "volumeMounts: path"),
            (r#"{"volumeMounts":[{"path":"/c"}]}"#, "line 1 column"),
        ] {
            let error = InitBody::parse(body.as_bytes()).unwrap_err();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
        assert!(InitBody::parse(br#"{"hostname":"a b"}"#).is_err());
        assert!(InitBody::parse(br#"{"accessToken":""}"#).is_err());
        assert!(InitBody::parse(br#"{"envVars":{"A=B":"1"}}"#).is_err());
        assert!(InitBody::parse(br#"{"envVars":{"A":"\u0000"}}"#).is_err());
    }
}
