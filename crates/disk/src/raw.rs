//! An image in a file of its own: what a template's root file system is made as. Shared, never written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use build::{PAGE_BYTES, Pages, ReadError, Run};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::overlay::OverlayError;

/// How many stretches of data are remembered. A file in more pieces than this is legal; past the limit everything counts
/// as data, which is slower and not wrong.
const MAX_EXTENTS: usize = 64 * 1024;

/// A raw image and the map of its holes. It ends with a whole page, which zeros fill up where the file ends inside one.
///
/// The map is taken once. Reading a hole through the file would be correct too, but it fills the page cache with zeros
/// that no other sandbox needs.
#[derive(Debug)]
pub struct RawImage {
    file: File,
    path: PathBuf,
    /// The length of the file in bytes.
    size: u64,
    /// The pages with data: ascending, not overlapping.
    data: Vec<Range<u64>>,
}

impl RawImage {
    /// The image in the file `path`.
    ///
    /// # Errors
    /// When it cannot be opened or looked at.
    pub fn open(path: &Path) -> Result<Self, OverlayError> {
        File::open(path)
            .and_then(|file| Self::new(file, path))
            .map_err(|source| OverlayError::Base { path: path.to_owned(), source })
    }

    /// The image in a file that is already open.
    ///
    /// # Errors
    /// When it cannot be looked at.
    pub fn from_file(file: File) -> Result<Self, OverlayError> {
        let path = Path::new("(an open file)");
        Self::new(file, path).map_err(|source| OverlayError::Base { path: path.to_owned(), source })
    }

    fn new(file: File, path: &Path) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut data: Vec<Range<u64>> = Vec::new();
        for range in data_ranges(&file, 0..size)? {
            let pages = range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES);
            match data.last_mut() {
                Some(last) if last.end >= pages.start => last.end = last.end.max(pages.end),
                _ => data.push(pages),
            }
        }
        Ok(Self { file, path: path.to_owned(), size, data })
    }

    /// Fills `buffer` from the file, and with zeros after its end.
    fn read_data(&self, page: u64, buffer: &mut [u8]) -> io::Result<()> {
        let offset = page * PAGE_BYTES;
        let inside = self.size.saturating_sub(offset).min(buffer.len() as u64);
        let (inside, beyond) = buffer.split_at_mut(usize::try_from(inside).map_err(io::Error::other)?);
        beyond.fill(0);
        self.file.read_exact_at(inside, offset)
    }
}

impl Pages for RawImage {
    fn pages(&self) -> u64 {
        self.size.div_ceil(PAGE_BYTES)
    }

    fn run(&self, page: u64) -> Run {
        if page >= self.pages() {
            return Run::Zero(1);
        }
        match self.data.get(self.data.partition_point(|range| range.end <= page)) {
            Some(range) if range.start <= page => Run::Data(range.end - page),
            Some(range) => Run::Zero(range.start - page),
            None => Run::Zero(self.pages() - page),
        }
    }

    fn read(&self, first: u64, mut buffer: &mut [u8]) -> Result<(), ReadError> {
        let (mut page, pages) = (first, self.pages());
        let end = first.saturating_add(buffer.len() as u64 / PAGE_BYTES);
        if end > pages {
            return Err(ReadError::Outside { first, end, pages });
        }
        while !buffer.is_empty() {
            let run = self.run(page);
            let (Run::Zero(length) | Run::Data(length)) = run;
            let bytes = length.saturating_mul(PAGE_BYTES).min(buffer.len() as u64);
            let (part, rest) = buffer.split_at_mut(usize::try_from(bytes).unwrap_or(buffer.len()));
            match run {
                Run::Zero(_) => part.fill(0),
                Run::Data(_) => self.read_data(page, part).map_err(|source| {
                    let object = self.path.display().to_string();
                    ReadError::Io { object, offset: page * PAGE_BYTES, source }
                })?,
            }
            page += length;
            buffer = rest;
        }
        Ok(())
    }
}

/// Where a file has data inside `within`, in bytes: ascending, not overlapping.
pub(crate) fn data_ranges(file: &File, within: Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let (mut position, size) = (within.start, within.end);
    while position < size {
        if ranges.len() == MAX_EXTENTS {
            ranges.push(position..size);
            break;
        }
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            // A file system without holes: all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => position,
            Err(error) => return Err(error.into()),
        };
        let end = match seek(file, SeekFrom::Hole(start)) {
            Ok(end) => end.min(size),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => size,
            Err(error) => return Err(error.into()),
        };
        if start >= end {
            break;
        }
        ranges.push(start..end);
        position = end;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(image: &RawImage) -> Vec<u8> {
        let mut read = vec![9; usize::try_from(image.pages() * PAGE_BYTES).unwrap()];
        image.read(0, &mut read).unwrap();
        read
    }

    #[test]
    fn holes_and_the_tail_read_as_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.write_all_at(&[2; 100], 3 << 20).unwrap();
        file.set_len((3 << 20) + 100).unwrap();
        let image = RawImage::from_file(file).unwrap();
        assert_eq!(image.data, [256..257, 768..769]);
        assert_eq!(image.pages(), 769);
        let runs = [0, 255, 256, 257, 768, 769].map(|page| image.run(page));
        let expected =
            [Run::Zero(256), Run::Zero(1), Run::Data(1), Run::Zero(511), Run::Data(1), Run::Zero(1)];
        assert_eq!(runs, expected);

        let mut expected = vec![0; 769 * 4096];
        expected[1 << 20..][..4096].fill(1);
        expected[3 << 20..][..100].fill(2);
        assert!(read(&image) == expected);
    }

    #[test]
    fn pages_outside_are_errors() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4097).unwrap();
        let image = RawImage::from_file(file).unwrap();
        assert_eq!(read(&image), [0; 8192]);
        let error = image.read(1, &mut [0; 8192]).unwrap_err();
        assert!(matches!(error, ReadError::Outside { first: 1, end: 3, pages: 2 }));
        assert!(image.read(u64::MAX, &mut [0; 4096]).is_err());
    }

    #[test]
    fn what_was_cut_off_is_an_error_and_not_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        let image = RawImage::from_file(file.try_clone().unwrap()).unwrap();
        file.set_len(4096).unwrap();
        image.read(0, &mut [0; 4096]).unwrap();
        let error = image.read(1, &mut [0; 4096]).unwrap_err().to_string();
        assert!(error.starts_with("(an open file): reading at byte 4096: "), "{error}");
    }

    #[test]
    fn an_empty_image_has_no_pages() {
        let image = RawImage::from_file(tempfile::tempfile().unwrap()).unwrap();
        assert_eq!((image.pages(), image.run(0)), (0, Run::Zero(1)));
        image.read(0, &mut []).unwrap();
    }
}
