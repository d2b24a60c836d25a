//! Parts of a file (RFC 9110, section 14).

use std::ops::Range;

/// Most parts in one answer. More of them is either a mistake or an attack; such a request gets the whole file.
const MAX_PARTS: usize = 32;

/// What a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parts {
    /// Everything: it asks for nothing we know, or for more than everything.
    Whole,
    /// These bytes, each range not empty and within the file.
    Some(Vec<Range<u64>>),
    /// Nothing that the file has.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a file of `size` bytes.
pub(super) fn parts(value: &str, size: u64) -> Parts {
    let Some((unit, list)) = value.split_once('=') else { return Parts::Unsatisfiable };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Parts::Whole;
    }
    let mut ranges = Vec::new();
    let mut out_of_range = false;
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match range(text, size) {
            Some(Some(range)) => ranges.push(range),
            Some(None) => out_of_range = true,
            None => return Parts::Unsatisfiable,
        }
        if ranges.len() > MAX_PARTS {
            return Parts::Whole;
        }
    }
    if ranges.is_empty() {
        // Of an empty file there is nothing to leave out.
        return if out_of_range && size > 0 { Parts::Unsatisfiable } else { Parts::Whole };
    }
    let total = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.end - range.start));
    if total > size { Parts::Whole } else { Parts::Some(ranges) }
}

/// One of `a-b`, `a-`, `-n`. The inner option is empty for what the file does not have, the outer one for nonsense.
#[expect(clippy::option_option, reason = "two different kinds of nothing")]
fn range(text: &str, size: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        let length = number(last)?.min(size);
        return Some((length > 0).then(|| size - length..size));
    }
    let start = number(first)?;
    let end = if last.is_empty() { size } else { number(last)?.saturating_add(1).min(size) };
    if !last.is_empty() && number(last)? < start {
        return None;
    }
    Some((start < size).then_some(start..end))
}

fn number(text: &str) -> Option<u64> {
    // `parse` would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_headers_ask_for() {
        let one = |range: Range<u64>| Parts::Some(vec![range]);
        let some = |ranges: &[Range<u64>]| Parts::Some(ranges.to_vec());
        for (value, expected) in [
            ("bytes=0-4", one(0..5)),
            ("bytes=5-", one(5..10)),
            ("bytes=-3", one(7..10)),
            ("bytes=-30", one(0..10)),
            ("bytes=9-100", one(9..10)),
            ("bytes=0-0,9-9", some(&[0..1, 9..10])),
            ("bytes= 0-1 , 3-4 ,", some(&[0..2, 3..5])),
            ("bytes=2-3,10-12", one(2..4)),
            ("bytes=0-9", one(0..10)),
            ("BYTES=0-0", one(0..1)),
            ("bytes=0-18446744073709551615", one(0..10)),
            ("bytes=10-", Parts::Unsatisfiable),
            ("bytes=-0", Parts::Unsatisfiable),
            ("bytes=3-2", Parts::Unsatisfiable),
            ("bytes=a-b", Parts::Unsatisfiable),
            ("bytes=+1-2", Parts::Unsatisfiable),
            ("bytes=1", Parts::Unsatisfiable),
            ("bytes=-", Parts::Unsatisfiable),
            ("bytes=99999999999999999999-", Parts::Unsatisfiable),
            ("0-4", Parts::Unsatisfiable),
            ("bytes=", Parts::Whole),
            ("lines=0-4", Parts::Whole),
            ("bytes=0-9,0-9", Parts::Whole),
        ] {
            assert_eq!(parts(value, 10), expected, "{value}");
        }
        assert_eq!(parts("bytes=0-", 0), Parts::Whole);
        assert_eq!(parts(&format!("bytes={}", "0-0,".repeat(40)), 1000), Parts::Whole);
    }
}
