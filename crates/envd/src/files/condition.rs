//! Conditional requests (RFC 9110, section 13), by time of change: files have no tags here.

use http::{HeaderMap, HeaderName, header};

use super::date;

/// Headers that make a request one for the plain form of a file.
const PLAIN_ONLY: [HeaderName; 6] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is served; the flag says whether a `Range` header counts.
    Serve {
        /// Whether it does.
        ranges: bool,
    },
    /// The client has it already: 304.
    NotModified,
    /// Its condition does not hold: 412.
    Failed,
}

/// Whether the request needs the plain form of the file.
pub(super) fn needs_plain(headers: &HeaderMap) -> bool {
    PLAIN_ONLY.iter().any(|name| headers.contains_key(name))
}

/// Judges a request for a file that was changed at `modified`, in seconds since 1970.
pub(super) fn judge(headers: &HeaderMap, modified: i64) -> Verdict {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let time = |name: HeaderName| text(name).and_then(date::parse);
    if let Some(tags) = text(header::IF_MATCH) {
        if tags != "*" {
            return Verdict::Failed;
        }
    } else if time(header::IF_UNMODIFIED_SINCE).is_some_and(|limit| modified > limit) {
        return Verdict::Failed;
    }
    if let Some(tags) = text(header::IF_NONE_MATCH) {
        if tags == "*" {
            return Verdict::NotModified;
        }
    } else if time(header::IF_MODIFIED_SINCE).is_some_and(|limit| modified <= limit) {
        return Verdict::NotModified;
    }
    let ranges = match text(header::IF_RANGE) {
        None => true,
        Some(validator) => date::parse(validator) == Some(modified),
    };
    Verdict::Serve { ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    #[test]
    fn verdicts() {
        let serve = Verdict::Serve { ranges: true };
        let whole = Verdict::Serve { ranges: false };
        for (headers, expected) in [
            (&[][..], serve),
            (&[("if-modified-since", BEFORE)], serve),
            (&[("if-modified-since", CHANGED)], Verdict::NotModified),
            (&[("if-modified-since", AFTER)], Verdict::NotModified),
            (&[("if-modified-since", "nonsense")], serve),
            (&[("if-unmodified-since", BEFORE)], Verdict::Failed),
            (&[("if-unmodified-since", CHANGED)], serve),
            (&[("if-match", "*")], serve),
            (&[("if-match", "\"x\"")], Verdict::Failed),
            (&[("if-match", "*"), ("if-unmodified-since", BEFORE)], serve),
            (&[("if-none-match", "*")], Verdict::NotModified),
            (&[("if-none-match", "\"x\"")], serve),
            (&[("if-none-match", "\"x\""), ("if-modified-since", AFTER)], serve),
            (&[("if-range", CHANGED)], serve),
            (&[("if-range", BEFORE)], whole),
            (&[("if-range", AFTER)], whole),
            (&[("if-range", "\"x\"")], whole),
        ] {
            let map: HeaderMap = headers
                .iter()
                .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
                .collect();
            assert_eq!(judge(&map, 784_111_777), expected, "{headers:?}");
            assert_eq!(needs_plain(&map), !headers.is_empty());
        }
    }
}
