//! Writing an image.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use build::{Diff, Header, ObjectInfo, ObjectKind, PAGE_BYTES, PageSink, Pages, checksum, data_object_bytes};

use crate::error::ArtifactError;
use crate::image::Image;
use crate::staged::Staging;
use crate::store::label;

/// [`PAGE_BYTES`] as a length in memory.
const PAGE: usize = 4096;

/// What is collected before it is written, in bytes: enough that system calls do not count.
const BUFFER: usize = 1 << 20;

/// From this length on, in bytes, what comes is written as it is instead of being copied together.
const DIRECT: usize = BUFFER / 4;

/// How much is collected before the disk begins to write it, in bytes: so much keeps a disk busy, and the sync in the end
/// has no more than this to wait for.
const WRITEBACK: u64 = 2 << 20;

/// The most that may be on its way to the disk at once, in bytes. A disk that is slower than the writer would otherwise
/// be waited for with all of an image in the host's memory, which cannot be given away as long as it is not written. The
/// sync would wait as long.
const UNWRITTEN: u64 = 16 << 20;

/// An image may need this many builds. With one more, pages are taken over from the smallest until few are left. That is the
/// exception: [compaction](crate::plan()) keeps them fewer as long as there is time for it. But a sandbox that is woken as soon
/// as it is paused never leaves any, and a bound on open files has to hold for that one, too.
const MOST_SOURCES: usize = 48;
/// How many builds are left then, beside the new one.
const KEPT_SOURCES: usize = 15;

/// Takes the pages of one image of a build that is being made. It holds a buffer of 1 MiB, 4 bytes for every page and 16
/// for every stretch of pages.
///
/// Pages come in ascending order. After an error only dropping it makes sense.
pub struct ImageWriter {
    staging: Arc<Staging>,
    kind: ObjectKind,
    parent: Option<Arc<Image>>,
    pages: u64,
    data: DataWriter,
    diff: Diff,
    /// The page after the last one that was given.
    end: u64,
    broken: bool,
}

impl ImageWriter {
    pub(crate) fn new(
        staging: Arc<Staging>,
        kind: ObjectKind,
        parent: Option<Arc<Image>>,
        pages: u64,
    ) -> Result<Self, ArtifactError> {
        let file = staging.create(kind.data())?;
        let data = DataWriter {
            file,
            buffer: Vec::with_capacity(BUFFER),
            written: 0,
            sums: Vec::new(),
            begun: 0,
            settled: 0,
        };
        Ok(Self { staging, kind, parent, pages, data, diff: Diff::default(), end: 0, broken: false })
    }

    /// How many bytes of pages are stored so far.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.data.written + self.data.buffer.len() as u64
    }

    /// Writes what is still to be written, and the header. Durable is it when the build is published.
    ///
    /// # Errors
    /// When it cannot be stored, an earlier call failed, or the parent does not fit or cannot be read.
    pub fn finish(mut self) -> Result<ObjectInfo, ArtifactError> {
        let object = label(&self.staging.build, self.kind.data());
        if self.broken {
            let source = io::Error::other("an earlier write failed");
            return Err(ArtifactError::Io { action: "finish", object, source });
        }
        let parent = self.parent.as_deref();
        let header = parent.map(Image::header);
        let build = self.staging.build.clone();
        let mut header = Header::merge(header, build, self.kind, self.pages, &self.diff, 0)
            .map_err(|source| ArtifactError::Merge { object: object.clone(), source })?;
        if header.sources().len() > MOST_SOURCES
            && let Some(parent) = parent
        {
            for range in header.fold(KEPT_SOURCES) {
                self.data.copy(parent, range).map_err(ArtifactError::object("write", &object))?;
            }
        }
        let (file, bytes, sums_crc) = self.data.finish().map_err(ArtifactError::object("write", &object))?;
        self.staging.written(self.kind.data(), file, bytes, sums_crc);
        header.seal(sums_crc);
        let header = header.encode();
        let header_crc = self.staging.put(self.kind.header(), &header)?.crc;
        Ok(ObjectInfo { bytes, header_crc })
    }

    /// Checks that pages may follow.
    fn advance(&mut self, first: u64, pages: u64) -> io::Result<Range<u64>> {
        let range = first..first.saturating_add(pages);
        if self.broken || first < self.end || range.is_empty() || range.end > self.pages {
            self.broken = true;
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "pages {first} to {} cannot follow page {} of an image of {} pages",
                    range.end, self.end, self.pages
                ),
            ));
        }
        self.end = range.end;
        Ok(range)
    }
}

impl PageSink for ImageWriter {
    fn data(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let sums: Vec<u32> = bytes.chunks(PAGE).map(checksum).collect();
        self.summed(first, bytes, &sums)
    }

    fn summed(&mut self, first: u64, bytes: &[u8], sums: &[u32]) -> io::Result<()> {
        let whole = sums.len() * PAGE == bytes.len();
        let range = self.advance(first, if whole { sums.len() as u64 } else { 0 })?;
        let result = self.data.push(bytes, sums);
        self.broken = result.is_err();
        append(&mut self.diff.data, range);
        result
    }

    fn zero(&mut self, first: u64, pages: u64) -> io::Result<()> {
        let range = self.advance(first, pages)?;
        // Without a parent everything that has no data is zero.
        if self.parent.is_some() {
            append(&mut self.diff.zero, range);
        }
        Ok(())
    }
}

/// Adds a range that comes after all others.
fn append(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// A data object that is being written.
struct DataWriter {
    file: File,
    /// What is not written yet; whole pages.
    buffer: Vec<u8>,
    /// How many bytes are written.
    written: u64,
    /// The checksums of all pages so far, as they are stored.
    sums: Vec<u8>,
    /// How many bytes the disk has begun to write.
    begun: u64,
    /// How many it has written, apart from what a sync has to say about it.
    settled: u64,
}

impl DataWriter {
    /// Appends pages with their checksums.
    fn push(&mut self, bytes: &[u8], sums: &[u32]) -> io::Result<()> {
        self.sums.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= DIRECT && self.buffer.is_empty() {
            self.write(bytes)
        } else {
            self.buffer.extend_from_slice(bytes);
            Ok(())
        }
    }

    /// Appends pages of another image.
    fn copy(&mut self, image: &Image, pages: Range<u64>) -> io::Result<()> {
        let mut buffer = vec![0; DIRECT];
        let mut first = pages.start;
        while first < pages.end {
            let count = (pages.end - first).min((DIRECT / PAGE) as u64);
            let bytes = usize::try_from(count * PAGE_BYTES).map_err(io::Error::other)?;
            let part = &mut buffer[..bytes];
            image.read(first, part).map_err(io::Error::other)?;
            let sums: Vec<u32> = part.chunks(PAGE).map(checksum).collect();
            self.push(part, &sums)?;
            first += count;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let result = self.write(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        result
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.written)?;
        self.written += bytes.len() as u64;
        if self.written - self.begun >= WRITEBACK {
            // A file system that cannot has more to do when it is synced, which tells what went wrong.
            let _ = sys::writeback::begin(&self.file, self.begun..self.written);
            self.begun = self.written;
            let settled = self.begun.saturating_sub(UNWRITTEN);
            let _ = sys::writeback::wait(&self.file, self.settled..settled);
            self.settled = settled;
        }
        Ok(())
    }

    /// Writes the rest and the checksums; gives the file, its length and the checksum of the checksums.
    fn finish(mut self) -> io::Result<(File, u64, u32)> {
        self.flush()?;
        let pages = self.written / PAGE_BYTES;
        self.file.write_all_at(&self.sums, self.written)?;
        Ok((self.file, data_object_bytes(pages), checksum(&self.sums)))
    }
}
