//! Requests to a registry.

use std::time::Duration;

use download::{Https, Plain, receive};
use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use crate::challenge::{self, Challenge};
use crate::credentials;
use crate::reference::Reference;

/// For what an answer says of why not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Registries send to where things are kept, which may send on.
const MAX_REDIRECTS: usize = 5;
/// A token is longer than one would think, and still short.
const MAX_TOKEN_BYTES: u64 = 1 << 20;
/// What is read of an answer that says why not.
const MAX_COMPLAINT_BYTES: usize = 1 << 10;

/// A registry, for one image.
pub(crate) struct Registry {
    client: Https,
    reference: Reference,
    /// What it accepts by now.
    authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

impl Registry {
    pub(crate) fn new(reference: Reference) -> Result<Self, String> {
        // Without TLS only to this host, and only there.
        let client = Https::new(if reference.is_here() { Plain::AsAsked } else { Plain::Never })?;
        Ok(Self { client, reference, authorization: None })
    }

    /// What the registry has at `path` below the image. The answer is a success.
    pub(crate) async fn get(&mut self, path: &str, accept: &str) -> Result<Response<Incoming>, String> {
        let scheme = if self.reference.is_here() { "http" } else { "https" };
        let uri = format!("{scheme}://{}/v2/{}/{path}", self.reference.registry, self.reference.name);
        let uri: Uri = uri.parse().map_err(|error| format!("{uri}: {error}"))?;
        let mut answer = self.client.get(&uri, accept, self.authorization.clone()).await?;
        if answer.status() == StatusCode::UNAUTHORIZED && self.authorization.is_none() {
            self.authorization = Some(self.introduce(&answer).await?);
            answer = self.client.get(&uri, accept, self.authorization.clone()).await?;
        }
        let mut at = uri;
        for _ in 0..MAX_REDIRECTS {
            if !answer.status().is_redirection() {
                break;
            }
            let to = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let to = target(&at, to.ok_or("it sends elsewhere and does not say where")?)?;
            // Whoever keeps things for a registry is not to know how we get them there.
            let ours = to.authority() == at.authority() && to.scheme() == at.scheme();
            answer = self.client.get(&to, accept, self.authorization.clone().filter(|_| ours)).await?;
            at = to;
        }
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_COMPLAINT_BYTES).collect();
        let body = tokio::time::timeout(PATIENCE, body).await;
        let body =
            body.ok().and_then(Result::ok).map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let text: String = String::from_utf8_lossy(&body).chars().filter(|c| !c.is_control()).collect();
        Err(format!("{at} answers {status} {text}"))
    }

    /// Says who we are, as the registry wants to hear it.
    async fn introduce(&self, answer: &Response<Incoming>) -> Result<HeaderValue, String> {
        let registry = &self.reference.registry;
        let known = credentials::of(registry);
        let sensitive = |text: String| {
            let mut value = HeaderValue::try_from(text).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        let header = answer.headers().get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        match header.and_then(challenge::parse) {
            Some(Challenge::Basic) => match known {
                Some(known) => sensitive(known),
                None => Err(format!("{registry} wants a name and a password: `docker login {registry}`")),
            },
            Some(Challenge::Bearer { realm, parameters }) => {
                let query: Vec<String> = parameters
                    .iter()
                    .map(|(name, value)| format!("{name}={}", challenge::encoded(value)))
                    .collect();
                let separator = if realm.contains('?') { '&' } else { '?' };
                let uri = format!("{realm}{separator}{}", query.join("&"));
                let uri: Uri = uri.parse().map_err(|error| format!("{realm}: {error}"))?;
                let known = known.map(sensitive).transpose()?;
                let answer = self.client.get(&uri, "application/json", known).await?;
                if answer.status() != StatusCode::OK {
                    let status = answer.status();
                    return Err(format!("{realm} gives no token: {status}; try `docker login {registry}`"));
                }
                let mut body = Vec::new();
                receive(answer, MAX_TOKEN_BYTES, &mut body)
                    .await
                    .map_err(|error| format!("{realm}: {error}"))?;
                let token: Token = serde_json::from_slice(&body)
                    .map_err(|error| format!("{realm} gives no token: {error}"))?;
                sensitive(format!("Bearer {}", token.token))
            }
            None => Err(format!("{registry} refuses, and does not say what it wants to know")),
        }
    }
}

/// Where a redirection leads.
fn target(from: &Uri, to: &str) -> Result<Uri, String> {
    let text = match (from.scheme_str(), from.authority()) {
        (Some(scheme), _) if to.starts_with("//") => format!("{scheme}:{to}"),
        (Some(scheme), Some(authority)) if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
        _ => to.to_owned(),
    };
    let uri: Uri = text.parse().map_err(|error| format!("it sends to {to}: {error}"))?;
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if from.scheme_str() == Some("http") => Ok(uri),
        _ => Err(format!("it sends to {to}, where anybody could listen")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_never_leads_to_where_anybody_could_listen() {
        let (safe, here): (Uri, Uri) =
            ("https://a.b/c".parse().unwrap(), "http://localhost:5/c".parse().unwrap());
        assert_eq!(target(&safe, "/d?e").unwrap(), "https://a.b/d?e");
        assert_eq!(target(&safe, "https://x.y/d").unwrap(), "https://x.y/d");
        assert_eq!(target(&here, "http://localhost:6/d").unwrap(), "http://localhost:6/d");
        assert_eq!(target(&safe, "//x.y/d").unwrap(), "https://x.y/d");
        for to in ["http://a.b/d", "ftp://a.b", "d", ""] {
            assert!(target(&safe, to).is_err(), "{to}");
        }
    }
}
