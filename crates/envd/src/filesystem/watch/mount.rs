//! File systems that change without the kernel here knowing.

use std::io;
use std::path::Path;

/// Magic numbers (statfs(2)) of file systems whose other users this kernel cannot see.
const NETWORK: [u64; 5] = [
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0x517b,      // SMB
    0xfe53_4d42, // SMB2
    0x6573_5546, // FUSE
];

/// Whether a path is on a network file system (or one in user space, which may well be one).
///
/// # Errors
///
/// When the file system does not answer.
pub(super) fn is_network(path: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(path)?.f_type;
    // The field is wider than the numbers, and signed: one with the highest bit set may come back extended.
    Ok(NETWORK.contains(&(kind.cast_unsigned() & 0xffff_ffff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_file_systems_are_not() {
        assert!(!is_network(Path::new("/proc")).unwrap());
        assert!(!is_network(Path::new("/dev")).unwrap());
        assert!(is_network(Path::new("/does/not/exist")).is_err());
    }
}
