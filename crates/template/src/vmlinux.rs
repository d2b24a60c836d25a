//! Takes the kernel proper out of a bzImage (`Documentation/arch/x86/boot.rst` of the kernel).
//!
//! A VMM can load the ELF file directly; started that way the guest does not have to decompress itself, which under
//! emulation would be most of its boot.

/// An uncompressed kernel is some 50 MB; what claims to be more is not one.
const MAX_KERNEL: usize = 256 << 20;
/// Every block of a legacy LZ4 frame but the last holds so much.
const LZ4_BLOCK: usize = 8 << 20;
const LZ4_MAGIC: u32 = 0x184c_2102;
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// Other ways to compress a kernel, by how they start.
const UNSUPPORTED: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\x5d\x00\x00", "LZMA"),
];

/// The ELF file inside a bzImage. The error is a phrase that says what is wrong.
pub(crate) fn extract(bzimage: &[u8]) -> Result<Vec<u8>, String> {
    let payload = payload(bzimage)?;
    if payload.starts_with(ELF_MAGIC) {
        return Ok(payload.to_vec());
    }
    if let Some((_, name)) = UNSUPPORTED.iter().find(|(magic, _)| payload.starts_with(magic)) {
        return Err(format!("it is compressed with {name}, and only LZ4 is supported"));
    }
    let kernel = lz4_legacy(payload)?;
    if !kernel.starts_with(ELF_MAGIC) {
        return Err("what it holds is no ELF file".to_owned());
    }
    Ok(kernel)
}

/// Finds the compressed kernel by the setup header.
fn payload(bzimage: &[u8]) -> Result<&[u8], String> {
    let header = "it is no bzImage of boot protocol 2.08 or later";
    if bzimage.get(0x202..0x206) != Some(b"HdrS") || u16_at(bzimage, 0x206).unwrap_or(0) < 0x208 {
        return Err(header.to_owned());
    }
    // Zero means four, for kernels older than the field.
    let sectors = match bzimage.get(0x1f1) {
        Some(0) | None => 4,
        Some(sectors) => usize::from(*sectors),
    };
    let part = || {
        let start = (sectors + 1).checked_mul(512)?.checked_add(u32_at(bzimage, 0x248)?)?;
        bzimage.get(start..start.checked_add(u32_at(bzimage, 0x24c)?)?)
    };
    part().ok_or_else(|| "it is cut short".to_owned())
}

/// Decompresses a legacy LZ4 frame, with the kernel's own addition: its size, in the last four bytes.
fn lz4_legacy(frame: &[u8]) -> Result<Vec<u8>, String> {
    if u32_at(frame, 0) != Some(LZ4_MAGIC as usize) {
        return Err("it is compressed in a way that is not known".to_owned());
    }
    let damaged = |why: &str| format!("its LZ4 frame is damaged: {why}");
    let end = frame.len() - 4;
    let expected =
        u32_at(frame, end).filter(|size| *size <= MAX_KERNEL).ok_or_else(|| damaged("no sensible size"))?;
    let mut kernel = vec![0; expected];
    let (mut at, mut filled) = (4, 0);
    while at < end {
        let size = u32_at(frame, at).ok_or_else(|| damaged("a block's size is missing"))?;
        let block = frame.get(at + 4..end).and_then(|rest| rest.get(..size));
        let block = block.ok_or_else(|| damaged("a block is cut short"))?;
        let room = filled.min(expected)..(filled + LZ4_BLOCK).min(expected);
        filled += lz4_flex::block::decompress_into(block, &mut kernel[room])
            .map_err(|e| damaged(&e.to_string()))?;
        at += 4 + size;
    }
    if filled != expected {
        return Err(damaged(&format!("{filled} bytes where {expected} were announced")));
    }
    Ok(kernel)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    usize::try_from(u32::from_le_bytes(bytes)).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(content: &[u8]) -> Vec<u8> {
        let mut frame = LZ4_MAGIC.to_le_bytes().to_vec();
        for chunk in content.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(chunk);
            frame.extend(u32::try_from(block.len()).unwrap().to_le_bytes());
            frame.extend(block);
        }
        frame.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        frame
    }

    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend([0xaa; 16]);
        image.extend(payload);
        image.extend([0xbb; 32]);
        image
    }

    fn kernel() -> Vec<u8> {
        let mut kernel = ELF_MAGIC.to_vec();
        kernel.extend((0..LZ4_BLOCK + 12_345).map(|i| u8::try_from(i % 251).unwrap()));
        kernel
    }

    #[test]
    fn a_kernel_of_several_blocks_comes_out_as_it_went_in() {
        assert!(extract(&bzimage(&frame(&kernel()))).unwrap() == kernel());
    }

    #[test]
    fn an_uncompressed_kernel_is_taken_as_it_is() {
        assert_eq!(extract(&bzimage(b"\x7fELF...")).unwrap(), b"\x7fELF...");
    }

    #[test]
    fn another_compression_is_named() {
        let error = extract(&bzimage(b"\x28\xb5\x2f\xfd....")).unwrap_err();
        assert!(error.contains("zstd"), "{error}");
    }

    #[test]
    fn what_is_cut_or_changed_is_an_error_and_no_panic() {
        let good = bzimage(&frame(&kernel()[..5000]));
        for len in 0..good.len() - 32 {
            assert!(extract(&good[..len]).is_err(), "{len}");
        }
        for at in 1024..good.len() - 32 {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            let _ = extract(&bad);
        }
    }

    #[test]
    fn a_size_that_lies_is_an_error() {
        for size in [0, 4999, 5001, u32::MAX] {
            let mut lying = frame(&kernel()[..5000]);
            let end = lying.len() - 4;
            lying[end..].copy_from_slice(&size.to_le_bytes());
            assert!(extract(&bzimage(&lying)).is_err(), "{size}");
        }
    }
}
