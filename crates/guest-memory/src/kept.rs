//! Pages of a guest as they were at one moment, kept in our own memory while the guest goes on.

use std::io;
use std::ops::Range;
use std::thread;

use build::PAGE_BYTES;

use crate::reader::MemoryReader;
use crate::room::Room;
use crate::{ranges, to_usize};

/// From this many bytes on, another thread helps: its start has to pay.
const SHARE: usize = 8 << 20;
/// More threads than this only wait for each other: memory is no faster.
const MOST_THREADS: usize = 4;

/// The kept pages.
#[derive(Debug)]
pub struct Kept {
    /// Ascending, not overlapping.
    ranges: Vec<Range<u64>>,
    /// Where each range begins in `bytes`.
    starts: Vec<usize>,
    bytes: Room,
    pages: u64,
}

impl Kept {
    /// Copies `wanted`. In `room` for as many it takes no longer than copying does.
    ///
    /// # Errors
    /// When they cannot be read, or there is no memory for them.
    pub fn copy(reader: &dyn MemoryReader, wanted: &[Range<u64>], room: Room) -> io::Result<Self> {
        let ranges = ranges::normalize(wanted.to_vec());
        let mut starts = Vec::with_capacity(ranges.len());
        let mut length = 0;
        for range in &ranges {
            starts.push(length);
            length += to_usize((range.end - range.start) * PAGE_BYTES);
        }
        let mut bytes = if room.len() < length { Room::new(length as u64 / PAGE_BYTES)? } else { room };
        let threads = thread::available_parallelism().map_or(1, |count| count.get().min(MOST_THREADS));
        let share = length.div_ceil(threads).max(SHARE);
        // Each thread gets pieces of ranges that are `share` bytes together.
        let mut shares: Vec<Vec<(u64, &mut [u8])>> = Vec::new();
        let (mut rest, mut full) = (&mut bytes[..length], share);
        for range in &ranges {
            let mut page = range.start;
            while page < range.end {
                if full >= share {
                    shares.push(Vec::new());
                    full = 0;
                }
                let left = to_usize((range.end - page) * PAGE_BYTES);
                let take = left.min((share - full).next_multiple_of(to_usize(PAGE_BYTES)));
                let (part, after) = rest.split_at_mut(take);
                rest = after;
                if let Some(share) = shares.last_mut() {
                    share.push((page, part));
                }
                full += take;
                page += take as u64 / PAGE_BYTES;
            }
        }
        let read = |share: Vec<(u64, &mut [u8])>| {
            share.into_iter().try_for_each(|(page, part)| reader.read(page, part))
        };
        let first = if shares.is_empty() { Vec::new() } else { shares.remove(0) };
        thread::scope(|scope| {
            let helpers: Vec<_> = shares.into_iter().map(|share| scope.spawn(move || read(share))).collect();
            let ours = read(first);
            let theirs = helpers.into_iter().map(|helper| {
                helper
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread that copies memory panicked")))
            });
            theirs.fold(ours, io::Result::and)
        })?;
        Ok(Self { ranges, starts, bytes, pages: reader.pages() })
    }

    /// Which pages are kept.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

impl MemoryReader for Kept {
    fn pages(&self) -> u64 {
        self.pages
    }

    fn read(&self, first: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = first + buffer.len() as u64 / PAGE_BYTES;
        let index = self.ranges.partition_point(|range| range.end <= first);
        let kept = self.ranges.get(index).filter(|range| range.start <= first && end <= range.end);
        let Some(range) = kept else {
            let text = format!("pages {first} to {end} were not kept together");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        };
        let from = self.starts[index] + to_usize((first - range.start) * PAGE_BYTES);
        buffer.copy_from_slice(&self.bytes[from..from + buffer.len()]);
        Ok(())
    }
}
