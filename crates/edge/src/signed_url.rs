//! File URLs that name no sandbox: `/files?path&username&signature&signature_expiration` on the server's own host.
//!
//! Clients that reach the server by one plain URL build them so. The signature is a hash over the request and the
//! sandbox's token, so the sandbox is the one whose token makes it. The daemon in the guest checks it again, with its
//! expiry; here it only finds the way.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::Method;
use http::uri::Uri;
use model::Secret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::config::MAX_SIGNATURE_CANDIDATES;
use crate::internal_routes::percent_decode;

const PATH: &str = "/files";
const VERSION_PREFIX: &str = "v1_";

/// A signed request for a file.
pub(crate) struct SignedUrl {
    /// The hash after what precedes the token.
    head: Sha256,
    /// What follows the token: `:<expiration>` or nothing.
    tail: Vec<u8>,
    digest: [u8; 32],
    tried: usize,
}

impl SignedUrl {
    /// `None` for what is not a well formed signed request for a file.
    pub(crate) fn parse(method: &Method, uri: &Uri) -> Option<Self> {
        let operation = match *method {
            Method::GET => "read",
            Method::POST => "write",
            _ => return None,
        };
        if uri.path() != PATH {
            return None;
        }
        let query = uri.query()?;
        let signature = parameter(query, "signature")?;
        let digest = decode_signature(&signature)?;
        let mut head = Sha256::new();
        head.update(parameter(query, "path").unwrap_or_default());
        head.update(format!(":{operation}:"));
        head.update(parameter(query, "username").unwrap_or_default());
        head.update(":");
        let mut tail = Vec::new();
        if let Some(expiration) = parameter(query, "signature_expiration") {
            tail.push(b':');
            tail.extend_from_slice(&expiration);
        }
        Some(Self { head, tail, digest, tried: 0 })
    }

    /// Whether the signature was made with `token`. Always false after [`MAX_SIGNATURE_CANDIDATES`] tries.
    pub(crate) fn made_with(&mut self, token: &Secret) -> bool {
        self.tried += 1;
        if self.tried > MAX_SIGNATURE_CANDIDATES {
            return false;
        }
        let mut hash = self.head.clone();
        hash.update(token.expose());
        hash.update(&self.tail);
        hash.finalize()[..].ct_eq(&self.digest[..]).into()
    }
}

/// `v1_` and the unpadded standard base64 of a SHA-256. A `+` that some client did not escape arrives as a space.
fn decode_signature(signature: &[u8]) -> Option<[u8; 32]> {
    let text = std::str::from_utf8(signature).ok()?.strip_prefix(VERSION_PREFIX)?;
    let bytes = STANDARD_NO_PAD.decode(text.replace(' ', "+").trim_end_matches('=')).ok()?;
    bytes.try_into().ok()
}

/// The first value of a query parameter, decoded as forms are.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key).as_ref() == name.as_bytes()).then(|| decode(value))
    })
}

fn decode(text: &str) -> Cow<'_, [u8]> {
    if text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        Cow::Owned(percent_decode(text.replace('+', " ").as_bytes()))
    } else {
        Cow::Borrowed(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(text: &str) -> String {
        format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
    }

    fn escape(text: &str) -> String {
        text.replace('+', "%2B").replace('/', "%2F")
    }

    fn made_with(method: &Method, uri: &str, token: &str) -> Option<bool> {
        SignedUrl::parse(method, &uri.parse().unwrap()).map(|mut url| url.made_with(&Secret::new(token)))
    }

    #[test]
    fn the_token_that_made_the_signature_is_found() {
        let read = escape(&signature("/home/user/a b:read:user:tok"));
        let uri = format!("/files?path=%2Fhome%2Fuser%2Fa+b&username=user&signature={read}");
        assert_eq!(made_with(&Method::GET, &uri, "tok"), Some(true));
        assert_eq!(made_with(&Method::GET, &uri, "other"), Some(false));
        assert_eq!(made_with(&Method::POST, &uri, "tok"), Some(false));

        let write = escape(&signature("x:write::tok:1893456000"));
        let uri = format!("/files?signature={write}&path=x&signature_expiration=1893456000");
        assert_eq!(made_with(&Method::POST, &uri, "tok"), Some(true));
    }

    #[test]
    fn what_is_not_a_signed_url_costs_no_hashes() {
        let good = escape(&signature("x"));
        for uri in [
            "/files".to_owned(),
            "/files?path=x".to_owned(),
            "/files?signature=v1_short".to_owned(),
            format!("/files?signature={}", &good[3..]),
            format!("/file?signature={good}"),
            format!("/files/?signature={good}"),
        ] {
            assert_eq!(made_with(&Method::GET, &uri, "tok"), None, "{uri}");
        }
        assert_eq!(made_with(&Method::PUT, &format!("/files?signature={good}"), "tok"), None);
    }

    #[test]
    fn tries_are_bounded() {
        let uri = format!("/files?path=x&signature={}", escape(&signature("x:read::tok")));
        let mut url = SignedUrl::parse(&Method::GET, &uri.parse().unwrap()).unwrap();
        assert!(url.made_with(&Secret::new("tok")));
        url.tried = MAX_SIGNATURE_CANDIDATES;
        assert!(!url.made_with(&Secret::new("tok")));
    }
}
