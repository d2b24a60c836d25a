//! Reading an image.

use std::collections::BTreeSet;

use build::{
    Header, Index, Located, MAX_HEADER_BYTES, Manifest, ObjectKind, ObjectName, PAGE_BYTES, Pages, ReadError,
    Run, SUM_BYTES, Source, checksum, data_object_bytes,
};
use model::BuildId;

use crate::error::ArtifactError;
use crate::store::{Object, Store, label, load_blob, load_manifest, read_whole};

/// [`PAGE_BYTES`] as a length in memory.
const PAGE: usize = 4096;
const SUM: usize = size_of::<u32>();
/// How many pages are read at once when all are.
const VERIFIED_AT_ONCE: usize = 256;

/// An image of a published build. Opening it reads its header and the page checksums of its sources; pages are read when
/// they are asked for, and each is verified. It keeps 4 bytes for every page that a source has, 20 for
/// every piece that it is in, and one open file per source.
pub struct Image {
    header: Header,
    index: Index,
    sources: Vec<OpenSource>,
}

/// The data object of one of the header's sources.
pub(crate) struct OpenSource {
    object: Box<dyn Object>,
    /// How it is called in errors.
    label: String,
    /// The checksums of its pages, little-endian as they are stored.
    sums: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (kind, build, sources) = (self.header.kind(), self.header.build(), self.header.sources());
        f.debug_struct("Image").field("kind", &kind).field("build", build).field("sources", &sources).finish()
    }
}

impl Image {
    /// Opens the memory or the disk of a build.
    ///
    /// # Errors
    /// When its header, or the data object of one of its sources, is missing, damaged, cut off or of something else.
    pub fn open(store: &dyn Store, build: &BuildId, kind: ObjectKind) -> Result<Self, ArtifactError> {
        let header = load_header(store, build, kind)?;
        let sources = header
            .sources()
            .iter()
            .map(|source| OpenSource::open(store, source, kind))
            .collect::<Result<_, _>>()?;
        Ok(Self { index: Index::of(&header), header, sources })
    }

    /// Where a page is.
    #[must_use]
    pub fn locate(&self, page: u64) -> Located {
        self.index.lookup(&self.header, page)
    }

    /// Where its pages are.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }
}

/// Reads where the pages of an image are.
///
/// # Errors
/// When it cannot be read, is damaged or something else.
pub fn load_header(store: &dyn Store, build: &BuildId, kind: ObjectKind) -> Result<Header, ArtifactError> {
    let object = || label(build, kind.header());
    let bytes = read_whole(store, build, kind.header(), MAX_HEADER_BYTES)?;
    let header =
        Header::decode(&bytes).map_err(|source| ArtifactError::Format { object: object(), source })?;
    if header.build() != build || header.kind() != kind {
        return Err(ArtifactError::Wrong {
            object: object(),
            found: format!("a {} header of build {}", header.kind(), header.build()),
            expected: format!("a {kind} header of build {build}"),
        });
    }
    Ok(header)
}

/// The builds that the images of a build read from, itself included where it has data of its own.
///
/// # Errors
/// When the header of an image that it has is missing, cannot be read, is damaged or something else.
pub fn sources(store: &dyn Store, manifest: &Manifest) -> Result<BTreeSet<BuildId>, ArtifactError> {
    let mut found = BTreeSet::new();
    let memory = manifest.memory.map(|_| ObjectKind::Memory);
    for kind in memory.into_iter().chain([ObjectKind::Disk]) {
        let header = load_header(store, &manifest.id, kind)?;
        found.extend(header.sources().iter().map(|source| source.build.clone()));
    }
    Ok(found)
}

/// Finds out whether a build is whole, as far as that can be told without reading pages: those are verified when they are
/// needed.
///
/// # Errors
/// When one of its objects, or of the data objects that its images read from, is missing, damaged or of something else.
pub fn check(store: &dyn Store, build: &BuildId) -> Result<(), ArtifactError> {
    let manifest = load_manifest(store, build)?;
    Image::open(store, build, ObjectKind::Disk)?;
    if manifest.memory.is_some() {
        Image::open(store, build, ObjectKind::Memory)?;
    }
    if let Some(info) = &manifest.device_state {
        load_blob(store, build, ObjectName::DeviceState, info)?;
    }
    Ok(())
}

impl OpenSource {
    pub(crate) fn open(store: &dyn Store, source: &Source, kind: ObjectKind) -> Result<Self, ArtifactError> {
        let name = kind.data();
        let label = label(&source.build, name);
        let object = store.open(&source.build, name)?;
        let (found, expected) = (object.len(), data_object_bytes(source.pages));
        if found != expected {
            return Err(ArtifactError::Length { object: label, found, expected });
        }
        let opened = Self::trusting(object, label, source.pages)?;
        let (found, expected) = (checksum(&opened.sums), source.sums_crc);
        if found != expected {
            let offset = source.pages * PAGE_BYTES;
            return Err(ArtifactError::Damaged { object: opened.label, offset, found, expected });
        }
        Ok(opened)
    }

    /// A data object with so many pages, whose page checksums are taken as they are.
    pub(crate) fn trusting(
        object: Box<dyn Object>,
        label: String,
        pages: u64,
    ) -> Result<Self, ArtifactError> {
        // The object is as long as that, so this much is there.
        let Ok(length) = usize::try_from(pages * SUM_BYTES) else {
            let found = object.len();
            return Err(ArtifactError::TooLarge { object: label, found, limit: usize::MAX as u64 });
        };
        let mut sums = vec![0; length];
        object.read_exact_at(&mut sums, pages * PAGE_BYTES).map_err(ArtifactError::object("read", &label))?;
        Ok(Self { object, label, sums })
    }

    /// Reads every page.
    pub(crate) fn verify(&self) -> Result<(), ReadError> {
        let (pages, mut buffer) = (self.sums.len() / SUM, vec![0; VERIFIED_AT_ONCE * PAGE]);
        for first in (0..pages).step_by(VERIFIED_AT_ONCE) {
            let count = VERIFIED_AT_ONCE.min(pages - first);
            self.read(first as u64, &mut buffer[..count * PAGE])?;
        }
        Ok(())
    }

    /// Fills `buffer`, whole pages, from page `at` of the data object.
    fn read(&self, at: u64, buffer: &mut [u8]) -> Result<(), ReadError> {
        let offset = at * PAGE_BYTES;
        let object = || self.label.clone();
        self.object.read_exact_at(buffer, offset).map_err(|source| ReadError::Io {
            object: object(),
            offset,
            source,
        })?;
        for (number, page) in (at..).zip(buffer.chunks(PAGE)) {
            let found = checksum(page);
            // A page without a checksum is none: the header's extents lie inside their sources.
            let expected = self.sum(number).unwrap_or(!found);
            if found != expected {
                let offset = number * PAGE_BYTES;
                return Err(ReadError::Damaged { object: object(), offset, found, expected });
            }
        }
        Ok(())
    }

    fn sum(&self, page: u64) -> Option<u32> {
        let start = usize::try_from(page).ok()?.checked_mul(SUM)?;
        self.sums.get(start..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

impl Pages for Image {
    fn pages(&self) -> u64 {
        self.header.pages()
    }

    fn run(&self, page: u64) -> Run {
        match self.locate(page) {
            Located::Zero { pages } => Run::Zero(pages),
            Located::Data { pages, .. } => Run::Data(pages),
        }
    }

    fn sum(&self, page: u64) -> Option<u32> {
        match self.locate(page) {
            Located::Data { source, at, .. } => self.sources.get(source)?.sum(at),
            Located::Zero { .. } => None,
        }
    }

    fn read(&self, first: u64, mut buffer: &mut [u8]) -> Result<(), ReadError> {
        let (mut page, pages) = (first, self.header.pages());
        let end = first.saturating_add((buffer.len() / PAGE) as u64);
        // A part of a page at the end would not be verified: it counts as outside.
        if end > pages || !buffer.len().is_multiple_of(PAGE) {
            return Err(ReadError::Outside { first, end, pages });
        }
        while !buffer.is_empty() {
            let located = self.locate(page);
            let (Located::Zero { pages } | Located::Data { pages, .. }) = located;
            let count = pages.min((buffer.len() / PAGE) as u64);
            let (part, rest) =
                buffer.split_at_mut(usize::try_from(count * PAGE_BYTES).unwrap_or(buffer.len()));
            match located {
                Located::Zero { .. } => part.fill(0),
                Located::Data { source, at, .. } => self.sources[source].read(at, part)?,
            }
            page += count;
            buffer = rest;
        }
        Ok(())
    }
}
