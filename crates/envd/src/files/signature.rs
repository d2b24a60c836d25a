//! Signed requests: a link that lets its holder read or write one path as one user, perhaps until some time.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, HeaderValue};
use model::Secret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;

use crate::auth::ACCESS_TOKEN_HEADER;

/// What a signature allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Reading the path.
    Read,
    /// Writing it.
    Write,
}

/// Why a request may not be served. Clients look at the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error("missing signature query parameter")]
    Missing,
    #[error("invalid signature")]
    Invalid,
    #[error("signature is already expired")]
    Expired,
    #[error("access token present in header but does not match")]
    WrongToken,
}

/// What a request says that a signature covers, as it was written, and the signature.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    /// Path in the query; empty when absent.
    pub(super) path: &'a str,
    /// What is to be done.
    pub(super) operation: Operation,
    /// User in the query; empty when absent.
    pub(super) username: &'a str,
    /// When the signature ends to hold, in seconds since 1970.
    pub(super) expires: Option<i64>,
    /// The signature.
    pub(super) signature: Option<&'a str>,
}

/// Whether a request may be served: when there is no token to know, when it brings the token, or when its signature
/// holds. `now` is in seconds since 1970.
///
/// # Errors
///
/// [`Refused`] otherwise.
pub(super) fn authorize(
    token: Option<&Secret>,
    headers: &HeaderMap,
    claim: &Claim<'_>,
    now: i64,
) -> Result<(), Refused> {
    let Some(token) = token else { return Ok(()) };
    if let Some(given) = headers.get(ACCESS_TOKEN_HEADER).filter(|given| !given.is_empty()) {
        let matches = HeaderValue::to_str(given).is_ok_and(|given| token.matches(given));
        return if matches { Ok(()) } else { Err(Refused::WrongToken) };
    }
    let given = claim.signature.ok_or(Refused::Missing)?;
    let expected = sign(token, claim);
    if !bool::from(expected.as_bytes().ct_eq(given.as_bytes())) {
        return Err(Refused::Invalid);
    }
    match claim.expires {
        Some(expires) if expires <= now => Err(Refused::Expired),
        _ => Ok(()),
    }
}

/// `v1_` and the SHA-256 of everything that the signature covers.
fn sign(token: &Secret, claim: &Claim<'_>) -> String {
    let operation = match claim.operation {
        Operation::Read => "read",
        Operation::Write => "write",
    };
    let mut hash = Sha256::new();
    for part in [claim.path, ":", operation, ":", claim.username, ":", token.expose()] {
        hash.update(part);
    }
    if let Some(expires) = claim.expires {
        hash.update(format!(":{expires}"));
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf '/tmp/x:read:user:secret' | openssl dgst -sha256 -binary | base64
    const PLAIN: &str = "v1_UcWFsywI1qzo5Y7kKxu0jSsdL4NgtTOwBubo/AJ8PqQ";
    // printf '/tmp/x:read:user:secret:1700000000' | openssl dgst -sha256 -binary | base64
    const EXPIRING: &str = "v1_8mKjSkeNLgAhYEc0VnzY/u/I2XPj5jU3avyaurE4sz4";

    fn token() -> Secret {
        Secret::new("secret")
    }

    fn claim(signature: Option<&str>, expires: Option<i64>) -> Claim<'_> {
        Claim { path: "/tmp/x", operation: Operation::Read, username: "user", expires, signature }
    }

    fn outcome(claim: &Claim<'_>, header: Option<&'static str>) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(ACCESS_TOKEN_HEADER, HeaderValue::from_static(header));
        }
        authorize(Some(&token()), &headers, claim, 1_600_000_000)
    }

    #[test]
    fn known_signatures() {
        assert_eq!(sign(&token(), &claim(None, None)), PLAIN);
        assert_eq!(sign(&token(), &claim(None, Some(1_700_000_000))), EXPIRING);
    }

    #[test]
    fn who_may() {
        assert_eq!(authorize(None, &HeaderMap::new(), &claim(None, None), 0), Ok(()));
        assert_eq!(outcome(&claim(None, None), Some("secret")), Ok(()));
        assert_eq!(outcome(&claim(Some(PLAIN), None), None), Ok(()));
        assert_eq!(outcome(&claim(Some(EXPIRING), Some(1_700_000_000)), None), Ok(()));
        assert_eq!(outcome(&claim(Some("v1_x"), None), Some("secret")), Ok(()));
    }

    #[test]
    fn who_may_not() {
        assert_eq!(outcome(&claim(None, None), None), Err(Refused::Missing));
        assert_eq!(outcome(&claim(Some(""), None), None), Err(Refused::Invalid));
        assert_eq!(outcome(&claim(Some(PLAIN), None), Some("other")), Err(Refused::WrongToken));
        // The time and the operation are part of what is signed.
        assert_eq!(outcome(&claim(Some(PLAIN), Some(1_700_000_000)), None), Err(Refused::Invalid));
        assert_eq!(outcome(&claim(Some(EXPIRING), None), None), Err(Refused::Invalid));
        let write = Claim { operation: Operation::Write, ..claim(Some(PLAIN), None) };
        assert_eq!(outcome(&write, None), Err(Refused::Invalid));
        let past = claim(None, Some(1_600_000_000));
        let signature = sign(&token(), &past);
        let past = Claim { signature: Some(&signature), ..past };
        assert_eq!(outcome(&past, None), Err(Refused::Expired));
    }
}
