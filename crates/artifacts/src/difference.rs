//! What is not the same in two images.

use build::{Located, PAGE_BYTES, Pages, ReadError};

use crate::image::Image;

/// How many pages are compared at once.
const AT_ONCE: u64 = 256;

/// How pages differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// They have other content.
    Changed,
    /// They were zero.
    Appeared,
    /// They are zero now.
    Vanished,
}

/// Pages that follow each other and differ in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differing {
    /// The first one.
    pub first: u64,
    /// How many there are.
    pub pages: u64,
    /// How.
    pub how: How,
}

/// What is not the same in two images.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// In ascending order.
    pub ranges: Vec<Differing>,
    /// Pages that both have stored in different places, with the same content.
    pub stored_twice: u64,
}

impl Difference {
    /// How many pages differ like that.
    #[must_use]
    pub fn pages(&self, how: How) -> u64 {
        self.ranges.iter().filter(|range| range.how == how).map(|range| range.pages).sum()
    }

    fn add(&mut self, first: u64, pages: u64, how: How) {
        match self.ranges.last_mut() {
            Some(last) if last.how == how && last.first + last.pages == first => last.pages += pages,
            _ => self.ranges.push(Differing { first, pages, how }),
        }
    }
}

/// Compares two images, of which the shorter one ends in zeros. Reads only what they do not have from the same place.
///
/// # Errors
/// When pages of one of them cannot be read, or are damaged.
pub fn difference(from: &Image, to: &Image) -> Result<Difference, ReadError> {
    let mut found = Difference::default();
    let (mut page, end) = (0, from.pages().max(to.pages()));
    let mut buffers = [Vec::new(), Vec::new()];
    while page < end {
        let (was, is) = (located(from, page, end), located(to, page, end));
        let pages = length(was).min(length(is));
        let mut count = pages;
        match (was, is) {
            (Located::Zero { .. }, Located::Zero { .. }) => {}
            (Located::Data { .. }, Located::Zero { .. }) => found.add(page, pages, How::Vanished),
            (Located::Zero { .. }, Located::Data { .. }) => found.add(page, pages, How::Appeared),
            (Located::Data { source, at, .. }, Located::Data { source: other, at: there, .. }) => {
                let same = from.header().sources()[source].build == to.header().sources()[other].build;
                if !(same && at == there) {
                    count = pages.min(AT_ONCE);
                    compare([from, to], page..page + count, &mut buffers, &mut found)?;
                }
            }
        }
        page += count;
    }
    Ok(found)
}

fn located(image: &Image, page: u64, end: u64) -> Located {
    if page < image.pages() { image.locate(page) } else { Located::Zero { pages: end - page } }
}

fn length(located: Located) -> u64 {
    let (Located::Zero { pages } | Located::Data { pages, .. }) = located;
    pages
}

fn compare(
    images: [&Image; 2],
    pages: std::ops::Range<u64>,
    buffers: &mut [Vec<u8>; 2],
    found: &mut Difference,
) -> Result<(), ReadError> {
    let bytes = usize::try_from((pages.end - pages.start) * PAGE_BYTES).unwrap_or(usize::MAX);
    for (image, buffer) in images.iter().zip(&mut *buffers) {
        buffer.resize(bytes, 0);
        image.read(pages.start, buffer)?;
    }
    let page = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
    for (number, (was, is)) in pages.zip(buffers[0].chunks(page).zip(buffers[1].chunks(page))) {
        if was == is {
            found.stored_twice += 1;
        } else {
            found.add(number, 1, How::Changed);
        }
    }
    Ok(())
}
