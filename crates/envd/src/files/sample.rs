//! Whether it is worth compressing a file.
//!
//! Most HTTP clients say that they take gzip without anybody having asked for it. What does not get smaller (archives,
//! pictures, models) is the slowest of all to compress, so a few samples decide.

use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use super::open::{Extent, Opened};

/// Bytes of a sample.
const SAMPLE: usize = 8 << 10;
/// Samples: at the beginning, in the middle, at the end.
const SAMPLES: usize = 3;

/// Whether a file gets at least an eighth smaller, as far as samples tell. May block.
pub(super) fn gets_smaller(opened: &Opened) -> bool {
    let sample = match &opened.extent {
        Extent::All(all) => sample(all.len() as u64, |offset, buffer| {
            let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
            let length = buffer.len().min(all.len() - offset);
            buffer[..length].copy_from_slice(&all[offset..offset + length]);
            Some(length)
        }),
        Extent::Sized { size, .. } => {
            sample(*size, |offset, buffer| opened.file.read_at(buffer, offset).ok())
        }
        // Made by the kernel, so it is text.
        Extent::Endless(_) => return true,
    };
    let mut packed = DeflateEncoder::new(Vec::with_capacity(sample.len()), Compression::fast());
    // Writing to memory cannot fail.
    let _ = packed.write_all(&sample);
    packed.finish().is_ok_and(|packed| packed.len() < sample.len() - sample.len() / 8)
}

/// The samples of `size` bytes, or all of them when there are not more.
fn sample(size: u64, read: impl Fn(u64, &mut [u8]) -> Option<usize>) -> Vec<u8> {
    let mut bytes = vec![0; SAMPLES * SAMPLE];
    let mut filled = 0;
    if size <= bytes.len() as u64 {
        filled = read(0, &mut bytes).unwrap_or(0);
    } else {
        let step = (size - SAMPLE as u64) / (SAMPLES as u64 - 1);
        for index in 0..SAMPLES as u64 {
            filled += read(index * step, &mut bytes[filled..filled + SAMPLE]).unwrap_or(0);
        }
    }
    bytes.truncate(filled);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worth(contents: &[u8]) -> bool {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(contents, 0).unwrap();
        let size = contents.len() as u64;
        let opened = |extent| Opened { file: file.try_clone().unwrap(), modified: 0, extent };
        let sized = gets_smaller(&opened(Extent::Sized { size, head: Vec::new() }));
        assert_eq!(gets_smaller(&opened(Extent::All(contents.to_vec()))), sized);
        sized
    }

    #[test]
    fn text_is_and_noise_is_not() {
        let text: Vec<u8> = (0..50_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
        let mut noise = vec![0; 300_000];
        std::fs::File::open("/dev/urandom").unwrap().read_exact_at(&mut noise, 0).unwrap();
        for length in [300, 5000, 24_576, 24_577, 300_000] {
            assert!(worth(&text[..length]), "{length}");
            assert!(!worth(&noise[..length]), "{length}");
        }
        assert!(!worth(b"") && !worth(b"hello"));
        // Noise behind a head that is not.
        let mut mixed = noise.clone();
        mixed[..8192].fill(b'x');
        assert!(worth(&mixed), "a third of the samples is text");
    }
}
