//! Putting a process's own memory together: pages that lie apart become one huge page, so that a snapshot holds them in
//! one place.
//!
//! The kernel moves contents and changes none of them. What it cannot do, for want of memory, of support (Linux 6.1) or
//! of anything there to be moved, it leaves as it is.

use std::io;
use std::ops::Range;

/// Bytes of a huge page on x86-64, and on aarch64 with pages of 4 KiB.
const HUGE: usize = 2 << 20;
/// Since Linux 6.1 (`linux/mman.h`).
const MADV_COLLAPSE: libc::c_int = 25;
/// Most huge pages in one go: 1 GiB. A process with more of its own is not what this is for.
const MAX_CHUNKS: u64 = 512;

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Collapse {
    /// Mappings that were looked at: anonymous ones that can be read and written.
    pub regions: u64,
    /// Ranges of the size and alignment of a huge page in them.
    pub chunks: u64,
    /// Ranges that are huge pages now and were none before.
    pub collapsed: u64,
    /// Ranges that were huge pages before.
    pub already_huge: u64,
    /// Ranges that stayed as they were.
    pub skipped: u64,
}

/// A mapping, and how many of its bytes are in huge pages.
#[derive(Debug, PartialEq, Eq)]
struct Region {
    range: Range<usize>,
    huge: usize,
}

/// Puts this process's own memory together, as far as that can be. Takes time in the order of a millisecond for each
/// huge page; other threads that touch the same memory wait meanwhile.
///
/// # Errors
/// When the kernel does not say what this process's memory is.
pub fn own_memory() -> io::Result<Collapse> {
    let smaps = || std::fs::read_to_string("/proc/self/smaps");
    let before = regions(&smaps()?);
    let mut done = Collapse { regions: before.len() as u64, ..Collapse::default() };
    let mut taken = 0;
    for region in &before {
        let first = region.range.start.next_multiple_of(HUGE);
        for start in (first..).step_by(HUGE).take_while(|start| *start + HUGE <= region.range.end) {
            if done.chunks == MAX_CHUNKS {
                break;
            }
            done.chunks += 1;
            if collapse(start) {
                taken += 1;
            } else {
                done.skipped += 1;
            }
        }
    }
    let huge = |regions: &[Region]| regions.iter().map(|region| region.huge).sum::<usize>();
    let grown = huge(&regions(&smaps()?)).saturating_sub(huge(&before)) / HUGE;
    done.collapsed = taken.min(grown as u64);
    done.already_huge = taken - done.collapsed;
    Ok(done)
}

fn collapse(start: usize) -> bool {
    let address = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: whatever is mapped there, now or meanwhile, keeps its contents and stays mapped; the call changes only
    // where in memory they lie. An address with nothing behind it is an error.
    unsafe { libc::madvise(address, HUGE, MADV_COLLAPSE) == 0 }
}

/// The private anonymous mappings in `/proc/PID/smaps` that can be read and written. Stacks are left out: most of one is
/// never used.
fn regions(smaps: &str) -> Vec<Region> {
    let mut regions: Vec<Region> = Vec::new();
    let mut inside = false;
    for line in smaps.lines() {
        if let Some(head) = head(line) {
            inside = head.1;
            if inside {
                regions.push(Region { range: head.0, huge: 0 });
            }
        } else if inside
            && let Some(value) = line.strip_prefix("AnonHugePages:")
            && let Some(region) = regions.last_mut()
        {
            let kilobytes: usize = value.trim().trim_end_matches("kB").trim().parse().unwrap_or_default();
            region.huge = kilobytes << 10;
        }
    }
    regions
}

/// `55d0a2c00000-55d0a2c21000 rw-p 00000000 00:00 0    [heap]`, and whether it is one of those.
fn head(line: &str) -> Option<(Range<usize>, bool)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let range = usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?;
    let (permissions, _offset, _device, inode) =
        (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let name = fields.next().unwrap_or_default();
    let is_ours = name.is_empty() || name == "[heap]" || name.starts_with("[anon");
    Some((range, permissions == "rw-p" && inode == "0" && is_ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_anonymous_memory_that_can_be_written() {
        let text = "\
555500000000-555500400000 r-xp 00000000 08:01 42   /usr/bin/x
AnonHugePages:      2048 kB
555500400000-555500800000 rw-p 00000000 00:00 0    [heap]
Rss:                 100 kB
AnonHugePages:      2048 kB
7f0000000000-7f0000200000 rw-p 00000000 00:00 0
AnonHugePages:         0 kB
7f0000200000-7f0000400000 rw-s 00000000 00:01 7    /dev/zero (deleted)
7f0000400000-7f0000600000 rw-p 00000000 00:00 0    [anon:name]
7ffc00000000-7ffc00200000 rw-p 00000000 00:00 0    [stack]
nonsense
";
        let region = |start: usize, end: usize, huge| Region { range: start..end, huge };
        assert_eq!(
            regions(text),
            [
                region(0x5555_0040_0000, 0x5555_0080_0000, HUGE),
                region(0x7f00_0000_0000, 0x7f00_0020_0000, 0),
                region(0x7f00_0040_0000, 0x7f00_0060_0000, 0),
            ]
        );
    }

    #[test]
    fn contents_stay_and_the_numbers_add_up() {
        let memory: Vec<u32> = (0..(8 << 20) / 4).collect();
        let first = own_memory().unwrap();
        assert!(first.regions > 0 && first.chunks >= 3, "{first:?}");
        assert_eq!(first.chunks, first.collapsed + first.already_huge + first.skipped, "{first:?}");
        assert!(memory.iter().zip(0..).all(|(value, index)| *value == index));
        let second = own_memory().unwrap();
        assert_eq!(second.chunks, second.collapsed + second.already_huge + second.skipped, "{second:?}");
    }
}
