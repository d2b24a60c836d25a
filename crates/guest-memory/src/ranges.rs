//! Sets of pages as ascending ranges.

use std::ops::Range;

/// Ascending, not empty, neither overlapping nor touching.
pub(crate) fn normalize(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        push(&mut joined, range);
    }
    joined
}

/// Adds a range that does not begin before the last one does.
pub(crate) fn push(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

/// What is in `from` and not in `minus`, both normalized.
pub(crate) fn subtract(from: &[Range<u64>], minus: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::with_capacity(from.len());
    let mut minus = minus.iter().peekable();
    for range in from {
        let mut start = range.start;
        while let Some(hole) = minus.peek() {
            if hole.start >= range.end {
                break;
            }
            if hole.start > start {
                left.push(start..hole.start);
            }
            start = start.max(hole.end);
            if hole.end > range.end {
                break;
            }
            minus.next();
        }
        if start < range.end {
            left.push(start..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes() {
        assert_eq!(normalize(vec![5..7, 1..3, 3..4, 9..9, 6..8]), [1..4, 5..8]);
    }

    #[test]
    fn subtracts_like_a_set() {
        // Every pair of subsets of eight pages.
        let ranges = |bits: u32| {
            normalize((0..8).filter(|page| bits >> page & 1 == 1).map(|page| page..page + 1).collect())
        };
        for from in 0..256 {
            for minus in 0..256 {
                assert_eq!(
                    subtract(&ranges(from), &ranges(minus)),
                    ranges(from & !minus),
                    "{from:b} minus {minus:b}"
                );
            }
        }
    }
}
