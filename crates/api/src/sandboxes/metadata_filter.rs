//! The `metadata` parameter of lists.
//!
//! Clients encode every key and value, join them as `k=v&k2=v2`, encode the result, and put that into the query, which
//! encodes it once more. The query's own encoding is gone when the text arrives here.

use std::collections::BTreeMap;

use crate::error::ApiError;

/// Pairs in one filter.
const MAX_PAIRS: usize = 64;

/// Sandboxes with at least these pairs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MetadataFilter(BTreeMap<String, String>);

impl MetadataFilter {
    pub(super) fn read(text: &str) -> Result<Self, ApiError> {
        let whole = unescape(text)?;
        let mut pairs = BTreeMap::new();
        for pair in whole.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| ApiError::bad_request("metadata must be key=value pairs joined by '&'"))?;
            pairs.insert(unescape(key)?, unescape(value)?);
            if pairs.len() > MAX_PAIRS {
                return Err(ApiError::bad_request(format!(
                    "metadata may filter by at most {MAX_PAIRS} pairs"
                )));
            }
        }
        Ok(Self(pairs))
    }

    pub(super) fn matches(&self, metadata: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| metadata.get(key) == Some(value))
    }
}

/// Undoes one layer of query encoding: `%xx` and `+` for a space.
fn unescape(text: &str) -> Result<String, ApiError> {
    let malformed = || ApiError::bad_request("metadata is not properly percent-encoded");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes().iter();
    while let Some(&byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = rest.next().and_then(hex_digit).ok_or_else(malformed)?;
                let low = rest.next().and_then(hex_digit).ok_or_else(malformed)?;
                high << 4 | low
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

fn hex_digit(&byte: &u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> BTreeMap<String, String> {
        MetadataFilter::read(text).unwrap().0
    }

    fn one(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.into(), value.into())])
    }

    #[test]
    fn the_encodings_that_clients_use() {
        assert_eq!(pairs("a=b%2520c"), one("a", "b c"));
        assert_eq!(pairs("gr%25C3%25BCn=%25E7%258C%25AB"), one("grün", "猫"));
        assert_eq!(pairs("a%253Db=c%2526d%252B"), one("a=b", "c&d+"));
        assert_eq!(pairs("plain=value&other=1").len(), 2);
        assert_eq!(pairs("empty="), one("empty", ""));
        assert!(pairs("").is_empty());
    }

    #[test]
    fn what_is_not_encoded_properly_is_refused() {
        for bad in ["novalue", "a=%", "a=%2", "a=%zz", "a=%25zz", "a=%ff", "a=%25ff"] {
            assert!(MetadataFilter::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_pair_must_match() {
        let filter = MetadataFilter::read("a=1&b=2").unwrap();
        let mut metadata = BTreeMap::from([("a".into(), "1".into()), ("c".into(), "3".into())]);
        assert!(!filter.matches(&metadata));
        metadata.insert("b".into(), "2".into());
        assert!(filter.matches(&metadata));
    }
}
