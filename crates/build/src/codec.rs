//! Headers as bytes.

use std::collections::HashSet;

use model::BuildId;

use crate::error::FormatError;
use crate::header::{Header, MAX_EXTENTS, MAX_PAGES, MAX_SOURCES, Packed, Source};
use crate::{ObjectKind, checksum};

const MAGIC: &[u8; 8] = b"CFHEADER";
/// The format that is written, and the newest that is read.
const VERSION: u32 = 1;
/// The size of a page, which is the one that every format has.
const PAGE: usize = 4096;
const EXTENT_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

impl Header {
    /// The header as the bytes of its object. All numbers are little-endian:
    ///
    /// | bytes | content |
    /// |---|---|
    /// | 8 | `CFHEADER` |
    /// | 4 | the format, 1 |
    /// | 4 | the kind: 1 memory, 2 disk |
    /// | 4 | the size of a page, 4096 |
    /// | 4 | the generation |
    /// | 8 | the size of the image in pages |
    /// | 4 | how many sources follow |
    /// | 4 | how many extents follow |
    /// | 1 + n | the build: length and text |
    /// | per source 1 + n + 8 + 4 | its build: length and text; the pages of its data object; the checksum of their checksums |
    /// | per extent 16 | first page, pages, number of the source, first page in the source |
    /// | 4 | the CRC-32C of everything before |
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.sources.len() * 80 + self.extents.len() * EXTENT_BYTES);
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(kind_number(self.kind).to_le_bytes());
        bytes.extend(count(PAGE));
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.pages.to_le_bytes());
        bytes.extend(count(self.sources.len()));
        bytes.extend(count(self.extents.len()));
        push_id(&mut bytes, &self.build);
        for source in &self.sources {
            push_id(&mut bytes, &source.build);
            bytes.extend(source.pages.to_le_bytes());
            bytes.extend(source.sums_crc.to_le_bytes());
        }
        for Packed { first, pages, source, at } in &self.extents {
            for number in [first, pages, source, at] {
                bytes.extend(number.to_le_bytes());
            }
        }
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }

    /// Reads what [`Header::encode`] wrote, in any format that was ever written.
    ///
    /// # Errors
    /// When a single bit is different, or the format is a later one.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader { bytes, at: 0 };
        reader.expect(MAGIC)?;
        // Every format ends with its checksum: what was damaged must not look like one that is only later.
        reader.bytes = check(bytes)?;
        let version = reader.u32("the format")?;
        if version > VERSION {
            return Err(FormatError::Newer { found: version, newest: VERSION });
        }
        if version == 0 {
            return Err(reader.unexpected(4, version, "a format from 1 on"));
        }
        let kind = match reader.u32("the kind")? {
            1 => ObjectKind::Memory,
            2 => ObjectKind::Disk,
            other => return Err(reader.unexpected(4, other, "1 for memory or 2 for a disk")),
        };
        let page_bytes = reader.u32("the size of a page")?;
        if page_bytes as usize != PAGE {
            return Err(reader.unexpected(4, page_bytes, format_args!("pages of {PAGE} bytes")));
        }
        let generation = reader.u32("the generation")?;
        let pages = reader.u64("the size of the image")?;
        if pages > MAX_PAGES {
            return Err(reader.unexpected(8, pages, format_args!("at most {MAX_PAGES} pages")));
        }
        let sources = reader.count("the number of sources", MAX_SOURCES)?;
        let extents = reader.count("the number of extents", MAX_EXTENTS)?;
        let build = reader.id()?;
        let sources = reader.sources(sources)?;
        let extents = reader.extents(extents, pages, &sources)?;
        if reader.at != reader.bytes.len() {
            return Err(reader.unexpected(0, "more bytes", "the checksum"));
        }
        Ok(Self { kind, build, pages, generation, sources, extents })
    }
}

const fn kind_number(kind: ObjectKind) -> u32 {
    match kind {
        ObjectKind::Memory => 1,
        ObjectKind::Disk => 2,
    }
}

/// An identifier has 64 characters at most.
fn push_id(bytes: &mut Vec<u8>, id: &BuildId) {
    bytes.push(u8::try_from(id.as_str().len()).unwrap_or(u8::MAX));
    bytes.extend(id.as_str().as_bytes());
}

/// Checks the checksum at the end; returns what it is about.
fn check(bytes: &[u8]) -> Result<&[u8], FormatError> {
    let short = FormatError::Short { offset: bytes.len(), expected: "a checksum" };
    let (content, stored) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(short)?;
    let (found, expected) = (checksum(content), u32::from_le_bytes(*stored));
    if found != expected {
        return Err(FormatError::Checksum { end: content.len(), found, expected });
    }
    Ok(content)
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, expected: &'static str) -> Result<&'a [u8], FormatError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or(FormatError::Short { offset: self.bytes.len(), expected })?;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], FormatError> {
        let taken = self.take(N, expected)?;
        taken.try_into().map_err(|_| FormatError::Short { offset: self.at, expected })
    }

    fn u32(&mut self, expected: &'static str) -> Result<u32, FormatError> {
        self.array(expected).map(u32::from_le_bytes)
    }

    fn u64(&mut self, expected: &'static str) -> Result<u64, FormatError> {
        self.array(expected).map(u64::from_le_bytes)
    }

    /// An error about the value of `length` bytes that was just taken.
    fn unexpected(
        &self,
        length: usize,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> FormatError {
        FormatError::Unexpected {
            offset: self.at.saturating_sub(length),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    fn expect(&mut self, magic: &[u8; 8]) -> Result<(), FormatError> {
        let found: [u8; 8] = self.array("CFHEADER")?;
        if found != *magic {
            return Err(self.unexpected(8, found.escape_ascii(), "CFHEADER"));
        }
        Ok(())
    }

    fn count(&mut self, what: &'static str, limit: usize) -> Result<usize, FormatError> {
        let count = self.u32(what)? as usize;
        if count > limit {
            return Err(self.unexpected(4, count, format_args!("{what}, at most {limit}")));
        }
        Ok(count)
    }

    fn id(&mut self) -> Result<BuildId, FormatError> {
        let [length] = self.array("the length of a build id")?;
        let text = self.take(length.into(), "a build id")?;
        std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
            self.unexpected(length.into(), format_args!("\"{}\"", text.escape_ascii()), "a build id")
        })
    }

    fn sources(&mut self, count: usize) -> Result<Vec<Source>, FormatError> {
        let mut sources: Vec<Source> = Vec::new();
        let mut seen = HashSet::new();
        for _ in 0..count {
            let build = self.id()?;
            if !seen.insert(build.clone()) {
                return Err(self.unexpected(build.as_str().len(), build, "every source once"));
            }
            let pages = self.u64("the pages of a source")?;
            if pages > MAX_PAGES {
                return Err(self.unexpected(8, pages, format_args!("at most {MAX_PAGES} pages")));
            }
            sources.push(Source { build, pages, sums_crc: self.u32("the checksum of a source")? });
        }
        Ok(sources)
    }

    fn extents(&mut self, count: usize, pages: u64, sources: &[Source]) -> Result<Vec<Packed>, FormatError> {
        // The bytes are taken first: the vector is never larger than what was really there.
        let start = self.at;
        let bytes = self.take(count.saturating_mul(EXTENT_BYTES), "the extents")?;
        let mut extents = Vec::with_capacity(count);
        let mut end = 0;
        for (index, bytes) in bytes.chunks_exact(EXTENT_BYTES).enumerate() {
            let number = |n: usize| {
                bytes
                    .get(n * 4..)
                    .and_then(|rest| rest.first_chunk())
                    .map_or(0, |four| u32::from_le_bytes(*four))
            };
            let extent = Packed { first: number(0), pages: number(1), source: number(2), at: number(3) };
            let wrong = if extent.pages == 0 {
                Some("at least one page".to_owned())
            } else if u64::from(extent.first) < end {
                Some(format!("a first page from {end} on"))
            } else if extent.end() > pages {
                Some(format!("an end inside {pages} pages"))
            } else if let Some(source) = sources.get(extent.source as usize) {
                (u64::from(extent.at) + u64::from(extent.pages) > source.pages)
                    .then(|| format!("an end inside the {} pages of the source", source.pages))
            } else {
                Some(format!("a source below {}", sources.len()))
            };
            if let Some(expected) = wrong {
                let offset = start + index * EXTENT_BYTES;
                return Err(FormatError::Unexpected { offset, found: format!("{extent:?}"), expected });
            }
            end = extent.end();
            extents.push(extent);
        }
        Ok(extents)
    }
}
