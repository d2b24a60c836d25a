//! The pages that a snapshot stores: those that differ from the image before, without zeros.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use build::{PAGE_BYTES, PageSink, Pages, ReadError, Run, checksum, is_zero};

use crate::ranges::normalize;
use crate::reader::MemoryReader;
use crate::to_usize;

/// How many pages are looked at together: 256 KiB, which stay in a processor's cache from one step to the next.
const PAGES: u64 = 64;

/// One that is being judged, one that is being stored, and one between them.
const PARTS: usize = 3;

const PAGE: usize = 4096;

/// What an export gave to its sink, in pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Exported {
    /// Pages with a content of their own.
    pub data: u64,
    /// Pages that are zero now and were not in the parent.
    pub zero: u64,
    /// Candidates that are as they were.
    pub unchanged: u64,
}

/// A snapshot's pages could not be found or stored.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The guest's memory could not be read.
    #[error("reading page {page} of the guest's memory: {source}")]
    Memory {
        /// The first page of those that were read together.
        page: u64,
        /// Why.
        source: io::Error,
    },
    /// The image before could not be read.
    #[error("reading page {page} of the image before: {source}")]
    Parent {
        /// The first page of those that were read together.
        page: u64,
        /// Why.
        source: ReadError,
    },
    /// A page could not be stored.
    #[error("storing page {page}: {source}")]
    Sink {
        /// The first page of those that were to be stored together.
        page: u64,
        /// Why.
        source: io::Error,
    },
}

/// What to do with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Data,
    Zero,
    Unchanged,
}

/// Gives to `sink` those of `candidates` that differ from `parent`; without one, those that are not zero.
///
/// The result is right only if every other page of the memory is as in the parent, or was never touched.
///
/// Pages are read and judged in a thread of their own while the ones before are stored. It holds 256 KiB for each
/// of the two and one between them, and as much for the parent.
///
/// # Errors
/// When a page cannot be read or stored. What was stored before that is not complete.
pub fn export(
    reader: &dyn MemoryReader,
    candidates: &[Range<u64>],
    parent: Option<&dyn Pages>,
    sink: &mut dyn PageSink,
) -> Result<Exported, ExportError> {
    let (send, judged) = sync_channel(1);
    let (give_back, used) = sync_channel(PARTS);
    for _ in 0..PARTS {
        // There is room for all of them.
        let _ = give_back.send(Part::default());
    }
    let ranges = normalize(candidates.to_vec());
    thread::scope(move |scope| {
        // The ends of the channels that are here go when this is over: then the thread gets no parts, and gives none.
        let spawned = thread::Builder::new().name("export".into()).spawn_scoped(scope, move || {
            Judge { reader, parent, before: Vec::new() }.run(ranges, &used, &send)
        });
        spawned.map_err(|source| ExportError::Memory { page: 0, source })?;
        let mut exported = Exported::default();
        for part in judged {
            let part = part?;
            part.store(sink, &mut exported)?;
            // Nobody needs it when this was the last one.
            let _ = give_back.send(part);
        }
        Ok(exported)
    })
}

/// Pages that are looked at together.
#[derive(Default)]
struct Part {
    /// Where they are in the image.
    ranges: Vec<Range<u64>>,
    /// The pages of all ranges, one after the other, and room for more.
    memory: Vec<u8>,
    /// What to do with each.
    verdicts: Vec<Verdict>,
    /// The checksum of each. Nobody asks for those of pages that are not stored.
    sums: Vec<u32>,
}

impl Part {
    fn clear(&mut self) {
        // The bytes stay: others are read over them.
        self.ranges.clear();
        self.verdicts.clear();
        self.sums.clear();
    }

    /// How many pages still fit.
    fn room(&self) -> u64 {
        PAGES - self.verdicts.len() as u64
    }

    /// Stores what has to be, runs together.
    fn store(&self, sink: &mut dyn PageSink, exported: &mut Exported) -> Result<(), ExportError> {
        let mut at = 0;
        for range in &self.ranges {
            let verdicts = &self.verdicts[at..at + to_usize(range.end - range.start)];
            let mut page = range.start;
            for alike in verdicts.chunk_by(|a, b| a == b) {
                let pages = alike.len() as u64;
                let stored = match alike[0] {
                    Verdict::Data => {
                        exported.data += pages;
                        let end = at + alike.len();
                        sink.summed(page, &self.memory[at * PAGE..end * PAGE], &self.sums[at..end])
                    }
                    Verdict::Zero => {
                        exported.zero += pages;
                        sink.zero(page, pages)
                    }
                    Verdict::Unchanged => {
                        exported.unchanged += pages;
                        Ok(())
                    }
                };
                stored.map_err(|source| ExportError::Sink { page, source })?;
                at += alike.len();
                page += pages;
            }
        }
        Ok(())
    }
}

/// Reads pages and finds out which have to be stored.
struct Judge<'a> {
    reader: &'a dyn MemoryReader,
    parent: Option<&'a dyn Pages>,
    /// Pages of the parent.
    before: Vec<u8>,
}

impl Judge<'_> {
    /// Judges `ranges` part by part, until something fails or nobody wants to know.
    fn run(
        mut self,
        ranges: Vec<Range<u64>>,
        used: &Receiver<Part>,
        judged: &SyncSender<Result<Part, ExportError>>,
    ) {
        let mut ranges = ranges.into_iter();
        let mut rest = 0..0;
        while let Ok(mut part) = used.recv() {
            part.clear();
            while part.room() > 0 {
                if rest.is_empty() {
                    match ranges.next() {
                        Some(range) => rest = range,
                        None => break,
                    }
                }
                let range = rest.start..rest.end.min(rest.start + part.room());
                rest.start = range.end;
                if let Err(error) = self.add(&mut part, range) {
                    // Whoever does not listen any more failed as well.
                    let _ = judged.send(Err(error));
                    return;
                }
            }
            if part.ranges.is_empty() || judged.send(Ok(part)).is_err() {
                return;
            }
        }
    }

    fn add(&mut self, part: &mut Part, range: Range<u64>) -> Result<(), ExportError> {
        let start = part.verdicts.len() * PAGE;
        let end = start + bytes(range.end - range.start);
        if part.memory.len() < end {
            part.memory.resize(end, 0);
        }
        let memory = &mut part.memory[start..end];
        self.reader
            .read(range.start, memory)
            .map_err(|source| ExportError::Memory { page: range.start, source })?;
        let mut page = range.start;
        while page < range.end {
            let left = range.end - page;
            let run = self.parent.map_or(Run::Zero(left), |parent| parent.run(page));
            let (Run::Zero(pages) | Run::Data(pages)) = run;
            let pages = pages.clamp(1, left);
            let from = bytes(page - range.start);
            let memory = &memory[from..from + bytes(pages)];
            match (run, self.parent) {
                (Run::Data(_), Some(parent)) => {
                    self.beside_data(parent, page, memory, &mut part.verdicts, &mut part.sums)?;
                }
                _ => {
                    for page in memory.chunks_exact(PAGE) {
                        let zero = is_zero(page);
                        part.verdicts.push(if zero { Verdict::Unchanged } else { Verdict::Data });
                        part.sums.push(if zero { 0 } else { checksum(page) });
                    }
                }
            }
            page += pages;
        }
        part.ranges.push(range);
        Ok(())
    }

    /// Judges pages where the parent has data, which is not zero.
    fn beside_data(
        &mut self,
        parent: &dyn Pages,
        first: u64,
        memory: &[u8],
        verdicts: &mut Vec<Verdict>,
        sums: &mut Vec<u32>,
    ) -> Result<(), ExportError> {
        let start = verdicts.len();
        for (page, bytes) in (first..).zip(memory.chunks_exact(PAGE)) {
            let zero = is_zero(bytes);
            let sum = if zero { 0 } else { checksum(bytes) };
            sums.push(sum);
            verdicts.push(if zero {
                Verdict::Zero
            } else if parent.sum(page).is_some_and(|before| before != sum) {
                // Most of what was written changed: then the parent need not be read.
                Verdict::Data
            } else {
                Verdict::Unchanged
            });
        }
        // That was the checksums' word, or none; their bytes decide.
        let mut at = 0;
        for run in verdicts[start..].chunk_by_mut(|a, b| a == b) {
            let from = at * PAGE;
            at += run.len();
            if run[0] != Verdict::Unchanged {
                continue;
            }
            let page = first + (from / PAGE) as u64;
            self.before.resize(run.len() * PAGE, 0);
            parent.read(page, &mut self.before).map_err(|source| ExportError::Parent { page, source })?;
            let pairs = memory[from..].chunks_exact(PAGE).zip(self.before.chunks_exact(PAGE));
            for (verdict, (now, before)) in run.iter_mut().zip(pairs) {
                if now != before {
                    *verdict = Verdict::Data;
                }
            }
        }
        Ok(())
    }
}

fn bytes(pages: u64) -> usize {
    to_usize(pages * PAGE_BYTES)
}
