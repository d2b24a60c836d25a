//! A private, sparse difference over a shared image.
//!
//! Each block of [`BLOCK_SIZE`] bytes belongs either to the base, where it was never written, or to the private file. A
//! bit per block, in memory, says which. The private file has every block at its own offset; a block that was zeroed or
//! trimmed is a hole in it, so zeros cost no space.
//!
//! [`Overlay::freeze`] keeps the disk as it is at one moment while writing goes on: what was private so far becomes a
//! layer that nobody writes any more, under a new private file. [`Overlay::rebase`] drops the layers when an image holds
//! what they do.
//!
//! The bits live and die with the process, and so do the contents: without them the private file means nothing. Callers
//! may unlink it as soon as it is open.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use build::{PAGE_BYTES, Pages, ReadError};
use rustix::fs::{FallocateFlags, fallocate};

use crate::bitmap::{Bitmap, DirtyBlocks};
use crate::device::{BlockDevice, check_range};

/// The unit of copying, in bytes: the page of a build, and the block size of the file systems we make.
pub const BLOCK_SIZE: u64 = PAGE_BYTES;

pub(crate) const BLOCK: usize = 4096;

/// The largest disk: it bounds the memory for the bits at 64 MiB.
const MAX_SIZE: u64 = 2 << 40;

/// Why a disk could not be made.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// A file cannot be used as an image.
    #[error("cannot open the base image {}: {source}", path.display())]
    Base {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The private file cannot be made.
    #[error("cannot create the private disk file {}: {source}", path.display())]
    Cow {
        /// The private file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The size makes no sense.
    #[error(
        "a disk of {size} bytes over an image of {base} bytes is not possible: the size must be a multiple of \
             {BLOCK_SIZE}, not smaller than the image and at most {MAX_SIZE}"
    )]
    Size {
        /// What was asked for, in bytes.
        size: u64,
        /// The size of the image, in bytes.
        base: u64,
    },
}

/// A copy-on-write disk; see the top of this module.
pub struct Overlay {
    size: u64,
    /// Held for writing while blocks change hands, so a reader sees a block before or after a copy and never in between.
    stack: RwLock<Stack>,
}

/// What a disk is made of.
pub(crate) struct Stack {
    pub(crate) base: Arc<dyn Pages>,
    /// Layers that nobody writes any more, the oldest first.
    frozen: Vec<Arc<Layer>>,
    top: Layer,
}

/// Blocks that lie over what is below.
pub(crate) struct Layer {
    pub(crate) cow: File,
    /// Which blocks are in `cow`.
    pub(crate) dirty: Bitmap,
}

/// A disk as it was at one moment; see [`Overlay::freeze`].
pub struct Frozen {
    pub(crate) base: Arc<dyn Pages>,
    pub(crate) layers: Vec<Arc<Layer>>,
    pub(crate) size: u64,
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (layers, size) = (self.reading().frozen.len() + 1, self.size);
        f.debug_struct("Overlay").field("size", &size).field("layers", &layers).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frozen").field("layers", &self.layers.len()).finish_non_exhaustive()
    }
}

impl Layer {
    fn new(cow: File, size: u64) -> io::Result<Self> {
        if cow.metadata()?.len() != 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not empty"));
        }
        cow.set_len(size)?;
        let blocks = usize::try_from(size / BLOCK_SIZE).map_err(io::Error::other)?;
        Ok(Self { cow, dirty: Bitmap::new(blocks) })
    }
}

impl Stack {
    /// All layers, the oldest first.
    pub(crate) fn layers(&self) -> Vec<&Layer> {
        self.frozen.iter().map(|layer| &**layer).chain([&self.top]).collect()
    }

    /// The layer that has a block; `None`: the base has it, or nobody.
    fn owner(&self, block: usize) -> Option<&Layer> {
        if self.top.dirty.get(block) {
            return Some(&self.top);
        }
        self.frozen.iter().rev().find(|layer| layer.dirty.get(block)).map(|layer| &**layer)
    }

    /// Which blocks any layer has.
    fn dirty(&self) -> Bitmap {
        let mut dirty = self.top.dirty.clone();
        self.frozen.iter().for_each(|layer| dirty.add(&layer.dirty));
        dirty
    }
}

impl Overlay {
    /// A disk of `size` bytes that starts as the image `base`, then zeros. `cow` must not exist yet; it is made readable
    /// to its owner only.
    ///
    /// # Errors
    /// When the file cannot be made, or the size does not fit.
    pub fn create(base: Arc<dyn Pages>, cow: &Path, size: u64) -> Result<Self, OverlayError> {
        let cow_error = |source| OverlayError::Cow { path: cow.to_owned(), source };
        check_size(size, base.pages().saturating_mul(PAGE_BYTES))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(cow)
            .map_err(cow_error)?;
        Self::assemble(base, file, size).map_err(|source| {
            // It is ours and of no use to anybody; the error that matters is the first one.
            let _ = std::fs::remove_file(cow);
            cow_error(source)
        })
    }

    /// As [`Overlay::create`], with a private file that is already open. It must be empty.
    ///
    /// # Errors
    /// When the file cannot be used, or the size does not fit.
    pub fn from_file(base: Arc<dyn Pages>, cow: File, size: u64) -> Result<Self, OverlayError> {
        check_size(size, base.pages().saturating_mul(PAGE_BYTES))?;
        Self::assemble(base, cow, size)
            .map_err(|source| OverlayError::Cow { path: "(an open file)".into(), source })
    }

    fn assemble(base: Arc<dyn Pages>, cow: File, size: u64) -> io::Result<Self> {
        let top = Layer::new(cow, size)?;
        Ok(Self { size, stack: RwLock::new(Stack { base, frozen: Vec::new(), top }) })
    }

    /// Keeps the disk as it is now. What is written from now on goes to `cow`, an empty file. Takes no longer than that,
    /// however much was written before.
    ///
    /// # Errors
    /// When the file cannot be used. Nothing is changed then.
    pub fn freeze(&self, cow: File) -> io::Result<Frozen> {
        let top = Layer::new(cow, self.size)?;
        let mut stack = self.writing();
        let before = std::mem::replace(&mut stack.top, top);
        stack.frozen.push(Arc::new(before));
        Ok(Frozen { base: Arc::clone(&stack.base), layers: stack.frozen.clone(), size: self.size })
    }

    /// Says that `image` has all that `frozen` has. Its layers are dropped, and exports are differences from `image` from
    /// now on.
    ///
    /// # Errors
    /// When `frozen` is not this disk's, or the disk was rebased since.
    pub fn rebase(&self, frozen: &Frozen, image: Arc<dyn Pages>) -> io::Result<()> {
        let mut stack = self.writing();
        let count = frozen.layers.len();
        let ours = Arc::ptr_eq(&stack.base, &frozen.base)
            && stack.frozen.len() >= count
            && stack.frozen.iter().zip(&frozen.layers).all(|(a, b)| Arc::ptr_eq(a, b));
        if !ours || image.pages().saturating_mul(PAGE_BYTES) > self.size {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "that is not what this disk was"));
        }
        stack.frozen.drain(..count);
        stack.base = image;
        Ok(())
    }

    /// The blocks that were written, zeroed or trimmed so far. Read what they hold with [`BlockDevice::read_at`]; their
    /// offset is their number times [`BLOCK_SIZE`].
    #[must_use]
    pub fn dirty_blocks(&self) -> DirtyBlocks {
        self.reading().dirty().into()
    }

    /// How many blocks [`Overlay::dirty_blocks`] would list.
    #[must_use]
    pub fn dirty_count(&self) -> u64 {
        self.reading().dirty().count()
    }

    // Nothing panics while it holds the lock, and a bit is only set after its block is complete: even then the bits
    // would be right. So a poisoned lock is as good as any.
    pub(crate) fn reading(&self) -> RwLockReadGuard<'_, Stack> {
        self.stack.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn writing(&self) -> RwLockWriteGuard<'_, Stack> {
        self.stack.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stack {
    /// Fills `buffer` from `offset` of the base, which has whole blocks, and zeros after its end.
    fn read_base(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            let block = offset / BLOCK_SIZE;
            let skip = usize::try_from(offset % BLOCK_SIZE).map_err(io::Error::other)?;
            let whole = buffer.len() - buffer.len() % BLOCK;
            let length = if skip == 0 && whole > 0 {
                self.read_base_blocks(block, &mut buffer[..whole])?;
                whole
            } else {
                let length = buffer.len().min(BLOCK - skip);
                let mut contents = [0; BLOCK];
                self.read_base_blocks(block, &mut contents)?;
                buffer[..length].copy_from_slice(&contents[skip..skip + length]);
                length
            };
            buffer = &mut buffer[length..];
            offset += length as u64;
        }
        Ok(())
    }

    fn read_base_blocks(&self, first: u64, buffer: &mut [u8]) -> io::Result<()> {
        let blocks = (buffer.len() / BLOCK) as u64;
        let stored = self.base.pages().saturating_sub(first).min(blocks);
        let stored = usize::try_from(stored).map_err(io::Error::other)?;
        let (inside, beyond) = buffer.split_at_mut(stored * BLOCK);
        beyond.fill(0);
        if inside.is_empty() {
            return Ok(());
        }
        self.base.read(first, inside).map_err(into_io)
    }

    /// Changes part of one block: `change` gets its contents and alters them in place.
    fn modify(&mut self, block: usize, change: impl FnOnce(&mut [u8])) -> io::Result<()> {
        let mut contents = [0; BLOCK];
        let offset = block as u64 * BLOCK_SIZE;
        match self.owner(block) {
            Some(layer) => layer.cow.read_exact_at(&mut contents, offset)?,
            None => self.read_base(&mut contents, offset)?,
        }
        change(&mut contents);
        self.top.cow.write_all_at(&contents, offset)?;
        self.top.dirty.set(block);
        Ok(())
    }

    /// Makes whole blocks read as zeros.
    fn zero_blocks(&mut self, blocks: Range<usize>) -> io::Result<()> {
        if blocks.is_empty() {
            return Ok(());
        }
        let (offset, length) = (blocks.start as u64 * BLOCK_SIZE, blocks.len() as u64 * BLOCK_SIZE);
        fallocate(&self.top.cow, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)?;
        for block in blocks {
            self.top.dirty.set(block);
        }
        Ok(())
    }
}

/// Keeps what the storage said: a guest is told of a full disk, and of any other failure.
pub(crate) fn into_io(error: ReadError) -> io::Error {
    let kind = match &error {
        ReadError::Io { source, .. } => source.kind(),
        ReadError::Outside { .. } | ReadError::Damaged { .. } => io::ErrorKind::InvalidData,
    };
    io::Error::new(kind, error)
}

fn check_size(size: u64, base: u64) -> Result<(), OverlayError> {
    if size < base || size > MAX_SIZE || !size.is_multiple_of(BLOCK_SIZE) {
        return Err(OverlayError::Size { size, base });
    }
    Ok(())
}

/// A range of bytes as whole blocks with a part of a block on either side.
struct Split {
    /// Up to the first block boundary; may be empty, and is all there is when the range stays inside one block.
    head: Range<u64>,
    blocks: Range<usize>,
    tail: Range<u64>,
}

/// Splits a range that [`check_range`] accepted.
fn split(offset: u64, length: u64) -> io::Result<Split> {
    let end = offset + length;
    let first = offset.next_multiple_of(BLOCK_SIZE);
    let last = end - end % BLOCK_SIZE;
    if first > last {
        return Ok(Split { head: offset..end, blocks: 0..0, tail: end..end });
    }
    let number = |at: u64| usize::try_from(at / BLOCK_SIZE).map_err(io::Error::other);
    Ok(Split { head: offset..first, blocks: number(first)?..number(last)?, tail: last..end })
}

/// The block that a range inside one block belongs to, and where in the block it is.
fn inside(range: &Range<u64>) -> io::Result<(usize, Range<usize>)> {
    let block = usize::try_from(range.start / BLOCK_SIZE).map_err(io::Error::other)?;
    let start = usize::try_from(range.start % BLOCK_SIZE).map_err(io::Error::other)?;
    let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
    Ok((block, start..start + length))
}

impl BlockDevice for Overlay {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        check_range(self.size, offset, buffer.len() as u64)?;
        let stack = self.reading();
        while !buffer.is_empty() {
            // The longest run with one owner.
            let (first, Range { start, .. }) = inside(&(offset..offset + 1))?;
            let owner = stack.owner(first);
            let same = |block| match (stack.owner(block), owner) {
                (Some(one), Some(other)) => std::ptr::eq(one, other),
                (one, other) => one.is_none() && other.is_none(),
            };
            let mut length = (BLOCK - start).min(buffer.len());
            let mut block = first + 1;
            while length < buffer.len() && same(block) {
                length = (length + BLOCK).min(buffer.len());
                block += 1;
            }
            let (part, rest) = buffer.split_at_mut(length);
            match owner {
                Some(layer) => layer.cow.read_exact_at(part, offset)?,
                None => stack.read_base(part, offset)?,
            }
            buffer = rest;
            offset += length as u64;
        }
        Ok(())
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        check_range(self.size, offset, data.len() as u64)?;
        let Split { head, blocks, tail } = split(offset, data.len() as u64)?;
        let mut stack = self.writing();
        let mut rest = data;
        if !head.is_empty() {
            let (block, at) = inside(&head)?;
            let (part, after) = rest.split_at(at.len());
            rest = after;
            stack.modify(block, |contents| contents[at].copy_from_slice(part))?;
        }
        if !blocks.is_empty() {
            let (part, after) = rest.split_at(blocks.len() * BLOCK);
            rest = after;
            stack.top.cow.write_all_at(part, blocks.start as u64 * BLOCK_SIZE)?;
            for block in blocks {
                stack.top.dirty.set(block);
            }
        }
        if !tail.is_empty() {
            let (block, at) = inside(&tail)?;
            stack.modify(block, |contents| contents[at].copy_from_slice(rest))?;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        let Split { head, blocks, tail } = split(offset, length)?;
        let mut stack = self.writing();
        for part in [head, tail] {
            if !part.is_empty() {
                let (block, at) = inside(&part)?;
                stack.modify(block, |contents| contents[at].fill(0))?;
            }
        }
        stack.zero_blocks(blocks)
    }

    /// Whole blocks read as zeros afterwards, so that no old contents get into a snapshot; parts of blocks stay.
    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        let Split { blocks, .. } = split(offset, length)?;
        self.writing().zero_blocks(blocks)
    }

    /// Nothing to do: the private file is of no use without its process, so no power cut can show that it was not
    /// written. An export is made durable by whoever stores it.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}
