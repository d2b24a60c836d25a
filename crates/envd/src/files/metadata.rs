//! Metadata in request headers: `X-Metadata-<key>: <value>`.

use std::collections::BTreeMap;

use http::HeaderMap;

const PREFIX: &str = "x-metadata-";

/// What the key of an attribute begins with on disk, in bytes: `user.e2b.`.
const STORED_PREFIX: usize = 9;
/// Longest key, in bytes: an attribute's name has at most 255 (xattr(7)).
const MAX_KEY: usize = 255 - STORED_PREFIX;
/// Most for all keys and values of a file together, in bytes: what ext4 has room for.
const MAX_TOTAL: usize = 4096;

/// The metadata that the headers ask for. Keys are in lower case, as header names are; the first value of a key counts.
///
/// # Errors
///
/// What is wrong with it, for people.
pub(super) fn from_headers(headers: &HeaderMap) -> Result<BTreeMap<String, String>, String> {
    let mut metadata = BTreeMap::new();
    let mut total = 0_usize;
    for name in headers.keys() {
        let Some(key) = name.as_str().strip_prefix(PREFIX).filter(|key| !key.is_empty()) else { continue };
        let Some(value) = headers.get(name) else { continue };
        let printable = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !printable(key.as_bytes()) || !printable(value.as_bytes()) {
            return Err(format!("metadata '{key}' must be printable ASCII"));
        }
        if key.len() > MAX_KEY {
            return Err(format!(
                "metadata key of {} bytes is too long: at most {MAX_KEY} are allowed",
                key.len()
            ));
        }
        total += STORED_PREFIX + key.len() + value.len();
        if total > MAX_TOTAL {
            return Err(format!("metadata is too large: at most {MAX_TOTAL} bytes are allowed"));
        }
        metadata.insert(key.to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    Ok(metadata)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn of(headers: &[(&str, &[u8])]) -> Result<BTreeMap<String, String>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        from_headers(&map)
    }

    #[test]
    fn keys_and_values() {
        let metadata = of(&[
            ("X-Metadata-Author", b"me"),
            ("x-metadata-author", b"you"),
            ("X-Metadata-", b"nothing"),
            ("X-Other", b"x"),
            ("x-metadata-empty", b""),
        ]);
        let expected =
            [("author", "me"), ("empty", "")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(metadata, Ok(BTreeMap::from(expected)));
    }

    #[test]
    fn limits() {
        assert!(of(&[("x-metadata-a", "é".as_bytes())]).is_err());
        assert!(of(&[("x-metadata-a", b"a\tb")]).is_err());
        let name = |length: usize| format!("x-metadata-{}", "k".repeat(length));
        assert!(of(&[(&name(246), b"")]).is_ok());
        assert!(of(&[(&name(247), b"")]).is_err());
        assert!(of(&[("x-metadata-a", &[b'v'; 4086])]).is_ok());
        assert!(of(&[("x-metadata-a", &[b'v'; 4087])]).is_err());
        assert!(of(&[("x-metadata-a", &[b'v'; 4000]), ("x-metadata-b", &[b'v'; 100])]).is_err());
    }
}
