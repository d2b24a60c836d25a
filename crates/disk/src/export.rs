//! What a build stores of a disk.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use build::{PageSink, Pages, ReadError, Run, is_zero};

use crate::bitmap::Bitmap;
use crate::device::BlockDevice;
use crate::overlay::{BLOCK, BLOCK_SIZE, Frozen, Layer, Overlay};
use crate::raw::data_ranges;

/// The most that is read at once, in bytes: enough that system calls do not count.
const BUFFER: usize = 1 << 20;
const BUFFER_BLOCKS: u64 = (BUFFER / BLOCK) as u64;

/// Why a disk could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The base, or the parent, cannot be read.
    #[error("reading the base of the disk: {0}")]
    Base(#[from] ReadError),
    /// The private file cannot be read.
    #[error("reading the private disk file at byte {offset}: {source}")]
    Cow {
        /// Where in it.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// What was read cannot be stored.
    #[error("storing the disk: {0}")]
    Sink(io::Error),
}

impl Overlay {
    /// Gives `sink` what differs from `parent`, which is the base of this disk: the blocks that were written. One that is
    /// zero is named as such where the parent has something else. Without a parent all of the disk that is not zero is
    /// given.
    ///
    /// Nobody can write while this runs; a caller who wants the disk of one moment has stopped the guest anyway. Holds
    /// one buffer of 1 MiB.
    ///
    /// # Errors
    /// When something cannot be read or stored. What `sink` got until then is incomplete.
    pub fn export(&self, parent: Option<&dyn Pages>, sink: &mut dyn PageSink) -> Result<(), ExportError> {
        let stack = self.reading();
        export(&*stack.base, &stack.layers(), self.size(), parent, sink)
    }
}

impl Frozen {
    /// As [`Overlay::export`], and the disk can be written meanwhile.
    ///
    /// # Errors
    /// When something cannot be read or stored. What `sink` got until then is incomplete.
    pub fn export(&self, parent: Option<&dyn Pages>, sink: &mut dyn PageSink) -> Result<(), ExportError> {
        let layers: Vec<&Layer> = self.layers.iter().map(|layer| &**layer).collect();
        export(&*self.base, &layers, self.size, parent, sink)
    }
}

/// Exports a disk that consists of a base and layers over it, the oldest first.
fn export(
    base: &dyn Pages,
    layers: &[&Layer],
    size: u64,
    parent: Option<&dyn Pages>,
    sink: &mut dyn PageSink,
) -> Result<(), ExportError> {
    let mut dirty = Bitmap::new(usize::try_from(size / BLOCK_SIZE).unwrap_or(usize::MAX));
    layers.iter().for_each(|layer| dirty.add(&layer.dirty));
    let mut export = Export { base, layers, parent, sink, buffer: vec![0; BUFFER] };
    let mut position = 0;
    for run in dirty_runs(&dirty) {
        if parent.is_none() {
            export.base(position..run.start)?;
        }
        position = run.end;
        export.written(run)?;
    }
    if parent.is_none() {
        export.base(position..size / BLOCK_SIZE)?;
    }
    Ok(())
}

/// The dirty blocks as ranges, ascending and not touching each other.
fn dirty_runs(dirty: &Bitmap) -> impl Iterator<Item = Range<u64>> {
    let mut blocks = dirty.ones().peekable();
    std::iter::from_fn(move || {
        let start = blocks.next()?;
        let mut end = start + 1;
        while blocks.next_if_eq(&end).is_some() {
            end += 1;
        }
        Some(start..end)
    })
}

struct Export<'a> {
    base: &'a dyn Pages,
    layers: &'a [&'a Layer],
    parent: Option<&'a dyn Pages>,
    sink: &'a mut dyn PageSink,
    buffer: Vec<u8>,
}

impl Export<'_> {
    /// Exports blocks that were never written.
    fn base(&mut self, blocks: Range<u64>) -> Result<(), ExportError> {
        let base = self.base;
        let end = blocks.end.min(base.pages());
        let mut first = blocks.start;
        while first < end {
            match base.run(first) {
                Run::Zero(pages) => first += pages,
                Run::Data(pages) => {
                    let count = pages.min(end - first).min(BUFFER_BLOCKS);
                    base.read(first, part(&mut self.buffer, count))?;
                    self.store(first, count)?;
                    first += count;
                }
            }
        }
        Ok(())
    }

    /// Exports blocks that were written, each from the newest layer that has it.
    fn written(&mut self, blocks: Range<u64>) -> Result<(), ExportError> {
        let layers = self.layers;
        let owner = |block| {
            let has = |layer: &&&Layer| usize::try_from(block).is_ok_and(|block| layer.dirty.get(block));
            layers.iter().rev().find(has)
        };
        let mut first = blocks.start;
        while first < blocks.end {
            let Some(layer) = owner(first) else { return Ok(()) };
            let same = |block: &u64| owner(*block).is_some_and(|other| std::ptr::eq(*other, *layer));
            let end = (first + 1..blocks.end).find(|block| !same(block)).unwrap_or(blocks.end);
            self.cow(&layer.cow, first..end)?;
            first = end;
        }
        Ok(())
    }

    /// Exports blocks of a private file. Its holes are zeros, and large ones are not read.
    fn cow(&mut self, cow: &File, blocks: Range<u64>) -> Result<(), ExportError> {
        let bytes = blocks.start * BLOCK_SIZE..blocks.end * BLOCK_SIZE;
        let failed = |offset| move |source| ExportError::Cow { offset, source };
        let data = if blocks.end - blocks.start > BUFFER_BLOCKS {
            data_ranges(cow, bytes.clone()).map_err(failed(bytes.start))?
        } else {
            vec![bytes]
        };
        let mut first = blocks.start;
        for range in data {
            let start = (range.start / BLOCK_SIZE).max(first);
            let end = range.end.div_ceil(BLOCK_SIZE).min(blocks.end);
            self.zero(first..start)?;
            first = start;
            while first < end {
                let (count, offset) = ((end - first).min(BUFFER_BLOCKS), first * BLOCK_SIZE);
                let buffer = part(&mut self.buffer, count);
                cow.read_exact_at(buffer, offset).map_err(failed(offset))?;
                self.store(first, count)?;
                first += count;
            }
        }
        self.zero(first..blocks.end)
    }

    /// Gives the sink the first `count` blocks in the buffer: stretches of data, and of zeros.
    fn store(&mut self, mut first: u64, count: u64) -> Result<(), ExportError> {
        let Self { parent, sink, buffer, .. } = self;
        let mut rest: &[u8] = part(buffer, count);
        while let Some(block) = rest.get(..BLOCK) {
            let zero = is_zero(block);
            let same = rest.chunks_exact(BLOCK).take_while(|block| is_zero(block) == zero).count();
            let (run, after) = rest.split_at(same * BLOCK);
            let end = first + same as u64;
            if zero {
                store_zero(*parent, *sink, first..end)?;
            } else {
                sink.data(first, run).map_err(ExportError::Sink)?;
            }
            (first, rest) = (end, after);
        }
        Ok(())
    }

    fn zero(&mut self, blocks: Range<u64>) -> Result<(), ExportError> {
        store_zero(self.parent, self.sink, blocks)
    }
}

/// Says that blocks are zero, where that is news.
fn store_zero(
    parent: Option<&dyn Pages>,
    sink: &mut dyn PageSink,
    blocks: Range<u64>,
) -> Result<(), ExportError> {
    let Some(parent) = parent else { return Ok(()) };
    let end = blocks.end.min(parent.pages());
    let mut first = blocks.start;
    while first < end {
        match parent.run(first) {
            Run::Zero(pages) => first += pages,
            Run::Data(pages) => {
                let count = pages.min(end - first);
                sink.zero(first, count).map_err(ExportError::Sink)?;
                first += count;
            }
        }
    }
    Ok(())
}

/// The part of the buffer for so many blocks.
fn part(buffer: &mut [u8], blocks: u64) -> &mut [u8] {
    let bytes = usize::try_from(blocks * BLOCK_SIZE).unwrap_or(usize::MAX).min(buffer.len());
    &mut buffer[..bytes]
}
