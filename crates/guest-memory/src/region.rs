//! Where a monitor has mapped its guest's memory, as it says.

use build::PAGE_BYTES;
use serde::Deserialize;

/// The other size of pages that guests may have, in bytes.
pub(crate) const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// A piece of guest memory in a monitor's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Its first byte's address in the monitor.
    pub addr: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where it begins in the image, and in the memfd when there is one, in bytes.
    pub offset: u64,
    /// The size of the pages that it is mapped with, in bytes: 4 KiB or 2 MiB.
    pub page_size: u64,
}

/// A monitor's regions cannot be served.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegionError {
    /// It is not the array of regions that was agreed on.
    #[error("the regions are not valid JSON: {0}")]
    Json(String),
    /// There is none.
    #[error("there are no regions")]
    None,
    /// One says two sizes of pages, or none.
    #[error("region {0} has to say page_size or page_size_kib (in bytes), and the same in both")]
    PageSize(usize),
    /// One has a size of pages that is not served.
    #[error("region {index} has pages of {page_size} bytes: only 4096 and 2097152 can be served")]
    UnknownPageSize {
        /// Which one.
        index: usize,
        /// What it says.
        page_size: u64,
    },
    /// One has no bytes.
    #[error("region {0} is empty")]
    Empty(usize),
    /// The address, size or offset of one is not a multiple of its pages' size.
    #[error("region {0} is not aligned to its pages")]
    Unaligned(usize),
    /// One reaches beyond what 64 bits can say.
    #[error("region {0} ends beyond the address space")]
    TooLarge(usize),
    /// Two share addresses or a part of the image.
    #[error("regions {0} and {1} overlap")]
    Overlap(usize, usize),
    /// One is not all in the memfd.
    #[error("region {index} ends at byte {end} of a memfd of {size} bytes")]
    BeyondMemfd {
        /// Which one.
        index: usize,
        /// Where it ends.
        end: u64,
        /// The memfd's size in bytes.
        size: u64,
    },
}

/// A region as Firecracker writes it: the older field's name says KiB and its value is in bytes.
#[derive(Deserialize)]
struct Wire {
    base_host_virt_addr: u64,
    size: u64,
    offset: u64,
    page_size: Option<u64>,
    page_size_kib: Option<u64>,
}

impl Region {
    /// The number of pages of 4096 bytes.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.size / PAGE_BYTES
    }

    /// The page of the image that it begins with.
    #[must_use]
    pub fn first_page(&self) -> u64 {
        self.offset / PAGE_BYTES
    }

    /// The page of the image that is at an address in the monitor, when that is in this region.
    #[must_use]
    pub fn page_at(&self, addr: u64) -> Option<u64> {
        let inside = addr.checked_sub(self.addr)?;
        (inside < self.size).then(|| self.first_page() + inside / PAGE_BYTES)
    }

    /// The address in the monitor of a page of the image, when that is in this region.
    #[must_use]
    pub fn addr_of(&self, page: u64) -> Option<u64> {
        let inside = page.checked_sub(self.first_page())?;
        (inside < self.pages()).then(|| self.addr + inside * PAGE_BYTES)
    }

    /// Whether its pages are huge.
    pub(crate) fn huge(&self) -> bool {
        self.page_size == HUGE_PAGE_BYTES
    }
}

/// Parses what a monitor sent. `None` when more may follow.
pub(crate) fn parse(text: &[u8]) -> Option<Result<Vec<Region>, RegionError>> {
    match serde_json::from_slice::<Vec<Wire>>(text) {
        Ok(wire) => Some(check(&wire)),
        Err(error) if error.is_eof() => None,
        Err(error) => Some(Err(RegionError::Json(error.to_string()))),
    }
}

fn check(wire: &[Wire]) -> Result<Vec<Region>, RegionError> {
    let regions =
        wire.iter().enumerate().map(|(index, wire)| check_one(index, wire)).collect::<Result<Vec<_>, _>>()?;
    if regions.is_empty() {
        return Err(RegionError::None);
    }
    // A kilobyte of JSON holds few enough to look at all pairs.
    for (second, b) in regions.iter().enumerate() {
        for (first, a) in regions.iter().enumerate().take(second) {
            let overlap = |a: u64, a_size: u64, b: u64, b_size: u64| a < b + b_size && b < a + a_size;
            if overlap(a.addr, a.size, b.addr, b.size) || overlap(a.offset, a.size, b.offset, b.size) {
                return Err(RegionError::Overlap(first, second));
            }
        }
    }
    Ok(regions)
}

fn check_one(index: usize, wire: &Wire) -> Result<Region, RegionError> {
    let page_size = match (wire.page_size, wire.page_size_kib) {
        (Some(a), Some(b)) if a == b => a,
        (Some(size), None) | (None, Some(size)) => size,
        _ => return Err(RegionError::PageSize(index)),
    };
    if page_size != PAGE_BYTES && page_size != HUGE_PAGE_BYTES {
        return Err(RegionError::UnknownPageSize { index, page_size });
    }
    let region = Region { addr: wire.base_host_virt_addr, size: wire.size, offset: wire.offset, page_size };
    if region.size == 0 {
        return Err(RegionError::Empty(index));
    }
    if [region.addr, region.size, region.offset].iter().any(|number| number % page_size != 0) {
        return Err(RegionError::Unaligned(index));
    }
    if region.addr.checked_add(region.size).is_none() || region.offset.checked_add(region.size).is_none() {
        return Err(RegionError::TooLarge(index));
    }
    Ok(region)
}

/// Checks that all of the regions are inside a memfd of `size` bytes.
pub(crate) fn check_inside(regions: &[Region], size: u64) -> Result<(), RegionError> {
    for (index, region) in regions.iter().enumerate() {
        let end = region.offset + region.size;
        if end > size {
            return Err(RegionError::BeyondMemfd { index, end, size });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Vec<Region>, RegionError> {
        parse(text.as_bytes()).expect("complete")
    }

    #[test]
    fn takes_what_firecracker_sends() {
        let text = r#"[{"base_host_virt_addr":140683398610944,"size":201326592,"offset":0,"page_size":4096,"page_size_kib":4096}]"#;
        let region = Region { addr: 140_683_398_610_944, size: 201_326_592, offset: 0, page_size: 4096 };
        assert_eq!(one(text).unwrap(), [region]);
        assert_eq!(region.page_at(region.addr + 8191), Some(1));
        assert_eq!(region.page_at(region.addr + region.size), None);
        assert_eq!(region.addr_of(1), Some(region.addr + 4096));
        assert_eq!(region.addr_of(region.pages()), None);

        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), None, "more may follow {end} bytes");
        }
    }

    #[test]
    fn the_older_name_is_enough() {
        let text = r#"[{"base_host_virt_addr":2097152,"size":2097152,"offset":0,"page_size_kib":2097152}]"#;
        assert!(one(text).unwrap()[0].huge());
    }

    #[test]
    fn refuses() {
        let region = |fields: &str| {
            format!(
                r#"[{{"base_host_virt_addr":4096,"size":4096,"offset":0,"page_size":4096}},{{{fields}}}]"#
            )
        };
        assert!(matches!(one("[]"), Err(RegionError::None)));
        assert!(matches!(one("{}"), Err(RegionError::Json(_))));
        assert!(matches!(one("[] []"), Err(RegionError::Json(_))));
        assert!(matches!(one(r#"[{"base_host_virt_addr":-1}]"#), Err(RegionError::Json(_))));
        for (fields, expected) in [
            (r#""base_host_virt_addr":8192,"size":4096,"offset":4096"#, RegionError::PageSize(1)),
            (
                r#""base_host_virt_addr":8192,"size":4096,"offset":4096,"page_size":4096,"page_size_kib":4"#,
                RegionError::PageSize(1),
            ),
            (
                r#""base_host_virt_addr":8192,"size":4096,"offset":4096,"page_size":4"#,
                RegionError::UnknownPageSize { index: 1, page_size: 4 },
            ),
            (r#""base_host_virt_addr":8192,"size":0,"offset":4096,"page_size":4096"#, RegionError::Empty(1)),
            (
                r#""base_host_virt_addr":8193,"size":4096,"offset":4096,"page_size":4096"#,
                RegionError::Unaligned(1),
            ),
            (
                r#""base_host_virt_addr":8192,"size":4097,"offset":4096,"page_size":4096"#,
                RegionError::Unaligned(1),
            ),
            (
                r#""base_host_virt_addr":8192,"size":4096,"offset":1,"page_size":4096"#,
                RegionError::Unaligned(1),
            ),
            (
                r#""base_host_virt_addr":8192,"size":2097152,"offset":4096,"page_size":2097152"#,
                RegionError::Unaligned(1),
            ),
            (
                r#""base_host_virt_addr":8192,"size":18446744073709547520,"offset":4096,"page_size":4096"#,
                RegionError::TooLarge(1),
            ),
            (
                r#""base_host_virt_addr":4096,"size":4096,"offset":4096,"page_size":4096"#,
                RegionError::Overlap(0, 1),
            ),
            (
                r#""base_host_virt_addr":8192,"size":4096,"offset":0,"page_size":4096"#,
                RegionError::Overlap(0, 1),
            ),
        ] {
            assert_eq!(one(&region(fields)), Err(expected), "{fields}");
        }
        let inside =
            one(&region(r#""base_host_virt_addr":8192,"size":4096,"offset":4096,"page_size":4096"#)).unwrap();
        assert_eq!(check_inside(&inside, 8192), Ok(()));
        assert_eq!(
            check_inside(&inside, 8191),
            Err(RegionError::BeyondMemfd { index: 1, end: 8192, size: 8191 })
        );
    }
}
