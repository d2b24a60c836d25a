//! The pages that a snapshot stores: those that differ from the image before, without zeros.

use std::io;
use std::ops::Range;

use build::{PAGE_BYTES, PageSink, Pages, ReadError, Run};

use crate::ranges::normalize;
use crate::reader::MemoryReader;
use crate::to_usize;

/// How many pages are looked at together: 1 MiB, and as much again of the parent.
const PAGES: u64 = 256;

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
/// # Errors
/// When a page cannot be read or stored. What was stored before that is not complete.
pub fn export(
    reader: &dyn MemoryReader,
    candidates: &[Range<u64>],
    parent: Option<&dyn Pages>,
    sink: &mut dyn PageSink,
) -> Result<Exported, ExportError> {
    let mut exporter = Exporter {
        parent,
        sink,
        memory: vec![0; PAGE * to_usize(PAGES)],
        before: parent.map_or_else(Vec::new, |_| vec![0; PAGE * to_usize(PAGES)]),
        verdicts: Vec::with_capacity(to_usize(PAGES)),
        exported: Exported::default(),
    };
    for range in normalize(candidates.to_vec()) {
        let mut page = range.start;
        while page < range.end {
            let pages = (range.end - page).min(PAGES);
            exporter.part(reader, page, pages)?;
            page += pages;
        }
    }
    Ok(exporter.exported)
}

struct Exporter<'a> {
    parent: Option<&'a dyn Pages>,
    sink: &'a mut dyn PageSink,
    /// Pages of the guest.
    memory: Vec<u8>,
    /// The same pages of the parent.
    before: Vec<u8>,
    /// What to do with each.
    verdicts: Vec<Verdict>,
    exported: Exported,
}

impl Exporter<'_> {
    fn part(&mut self, reader: &dyn MemoryReader, first: u64, pages: u64) -> Result<(), ExportError> {
        let memory = &mut self.memory[..bytes(pages)];
        reader.read(first, memory).map_err(|source| ExportError::Memory { page: first, source })?;
        self.verdicts.clear();
        while (self.verdicts.len() as u64) < pages {
            let done = self.verdicts.len() as u64;
            match self.parent.map_or(Run::Zero(pages), |parent| parent.run(first + done)) {
                Run::Zero(run) => self.judge_beside_zeros(done, run.clamp(1, pages - done)),
                Run::Data(run) => self.judge_beside_data(first, done, run.clamp(1, pages - done))?,
            }
        }
        self.store(first)
    }

    /// Judges `run` pages after the first `done`, where the parent has zeros.
    fn judge_beside_zeros(&mut self, done: u64, run: u64) {
        let pages = self.memory[bytes(done)..bytes(done + run)].chunks_exact(PAGE);
        self.verdicts
            .extend(pages.map(|page| if is_zero(page) { Verdict::Unchanged } else { Verdict::Data }));
    }

    /// Judges `run` pages after the first `done`, where the parent has data, which is not zero.
    fn judge_beside_data(&mut self, first: u64, done: u64, run: u64) -> Result<(), ExportError> {
        let memory = &self.memory[bytes(done)..bytes(done + run)];
        // A parent's page beside a zero one need not be read.
        let zeros: Vec<bool> = memory.chunks_exact(PAGE).map(is_zero).collect();
        let mut at = 0;
        for alike in zeros.chunk_by(|a, b| a == b) {
            let (from, to) = (at * PAGE, (at + alike.len()) * PAGE);
            if alike[0] {
                self.verdicts.extend(alike.iter().map(|_| Verdict::Zero));
            } else if let Some(parent) = self.parent {
                let page = first + done + at as u64;
                let before = &mut self.before[from..to];
                parent.read(page, before).map_err(|source| ExportError::Parent { page, source })?;
                let pairs = memory[from..to].chunks_exact(PAGE).zip(before.chunks_exact(PAGE));
                self.verdicts
                    .extend(pairs.map(|(a, b)| if a == b { Verdict::Unchanged } else { Verdict::Data }));
            }
            at += alike.len();
        }
        Ok(())
    }

    /// Stores what has to be, runs together.
    fn store(&mut self, first: u64) -> Result<(), ExportError> {
        let mut at = 0;
        for alike in self.verdicts.chunk_by(|a, b| a == b) {
            let page = first + at as u64;
            let pages = alike.len() as u64;
            let stored = match alike[0] {
                Verdict::Data => {
                    self.exported.data += pages;
                    self.sink.data(page, &self.memory[at * PAGE..(at + alike.len()) * PAGE])
                }
                Verdict::Zero => {
                    self.exported.zero += pages;
                    self.sink.zero(page, pages)
                }
                Verdict::Unchanged => {
                    self.exported.unchanged += pages;
                    Ok(())
                }
            };
            stored.map_err(|source| ExportError::Sink { page, source })?;
            at += alike.len();
        }
        Ok(())
    }
}

fn bytes(pages: u64) -> usize {
    to_usize(pages * PAGE_BYTES)
}

fn is_zero(page: &[u8]) -> bool {
    static ZEROS: [u8; PAGE] = [0; PAGE];
    page == ZEROS
}
