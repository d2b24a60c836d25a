//! One kernel module: what it needs, and its signature.

/// What the kernel's build appends to a signed module (`include/linux/module_signature.h`).
const SIGNATURE_MARK: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`, between the signature and the mark.
const SIGNATURE_INFO: usize = 12;

/// The names of the modules that must be loaded before this one.
pub(crate) fn dependencies(elf: &[u8]) -> Option<Vec<String>> {
    let info = section(elf, b".modinfo")?;
    let depends = info.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="))?;
    let names = str::from_utf8(depends).ok()?.split(',').filter(|name| !name.is_empty());
    Some(names.map(str::to_owned).collect())
}

/// The module without its signature.
///
/// Verifying one takes an emulated processor some 15 ms, and a sandbox loads eight. They come from the package that apt
/// has verified, through an initramfs that only we write, so the guest's kernel would check us against ourselves.
pub(crate) fn without_signature(module: &[u8]) -> &[u8] {
    let stripped = || {
        let rest = module.strip_suffix(SIGNATURE_MARK)?;
        let (rest, info) = rest.split_at_checked(rest.len().checked_sub(SIGNATURE_INFO)?)?;
        // Lengths: signer, key identifier (bytes 3 and 4), signature (big endian, the last four).
        let signature = usize::try_from(u32::from_be_bytes(info.get(8..12)?.try_into().ok()?)).ok()?;
        let tail = signature.checked_add(usize::from(info[3]) + usize::from(info[4]))?;
        rest.get(..rest.len().checked_sub(tail)?)
    };
    stripped().unwrap_or(module)
}

/// The content of a section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(elf, 0x28, 8)?;
    let (entry_size, count, names) = (number(elf, 0x3a, 2)?, number(elf, 0x3c, 2)?, number(elf, 0x3e, 2)?);
    let header = |index: usize| elf.get(table.checked_add(index.checked_mul(entry_size)?)?..);
    let content = |header: &[u8]| {
        let start = number(header, 0x18, 8)?;
        elf.get(start..start.checked_add(number(header, 0x20, 8)?)?)
    };
    let names = content(header(names)?)?;
    (0..count).filter_map(header).find_map(|header| {
        let name = names.get(number(header, 0, 4)?..)?;
        (name.split(|byte| *byte == 0).next() == Some(wanted)).then(|| content(header))?
    })
}

fn number(bytes: &[u8], at: usize, len: usize) -> Option<usize> {
    let mut wide = [0; 8];
    wide[..len].copy_from_slice(bytes.get(at..at.checked_add(len)?)?);
    usize::try_from(u64::from_le_bytes(wide)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file with two sections: the names of sections, and `.modinfo`.
    fn module(modinfo: &[u8]) -> Vec<u8> {
        let names = b"\0.shstrtab\0.modinfo\0";
        let mut elf = vec![0; 0x40];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut headers = Vec::new();
        for (name, content) in [(1_u32, &names[..]), (11, modinfo)] {
            let mut header = vec![0; 0x40];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(elf.len() as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(content.len() as u64).to_le_bytes());
            headers.extend(header);
            elf.extend(content);
        }
        let table = elf.len() as u64;
        elf.extend(headers);
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        elf[0x3a..0x3c].copy_from_slice(&0x40_u16.to_le_bytes());
        elf[0x3c..0x3e].copy_from_slice(&2_u16.to_le_bytes());
        elf
    }

    #[test]
    fn dependencies_are_read() {
        let elf = module(b"license=GPL\0depends=virtio,virtio_ring\0name=virtio_blk\0");
        assert_eq!(dependencies(&elf).unwrap(), ["virtio", "virtio_ring"]);
        assert_eq!(dependencies(&module(b"depends=\0")).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_module_has_none() {
        assert_eq!(dependencies(b"\xfd7zXZ compressed"), None);
        let good = module(b"depends=a\0");
        // The end of the last section header holds nothing that is looked at.
        for len in 0..good.len() - 24 {
            assert_eq!(dependencies(&good[..len]), None, "{len}");
        }
    }

    #[test]
    fn a_signature_is_cut_off_and_nothing_else() {
        let plain = module(b"depends=\0");
        let mut signed = plain.clone();
        signed.extend([7; 300]);
        signed.extend([0, 0, 2, 0, 0, 0, 0, 0]);
        signed.extend(300_u32.to_be_bytes());
        signed.extend(SIGNATURE_MARK);
        assert_eq!(without_signature(&signed), plain);
        assert_eq!(without_signature(&plain), plain);
        let mut lying = SIGNATURE_MARK.to_vec();
        lying.splice(0..0, [0xff; 12]);
        assert_eq!(without_signature(&lying), lying);
    }
}
