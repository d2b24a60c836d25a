//! Where cgroup v2 is mounted, from the kernel's list of mounts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The mount point of the first cgroup v2 file system in the text of a `mountinfo` file (proc(5)).
pub(crate) fn cgroup2_mount_point(mountinfo: &[u8]) -> Option<PathBuf> {
    mountinfo.split(|&b| b == b'\n').find_map(|line| {
        let mut fields = line.split(|&b| b == b' ');
        let mount_point = fields.nth(4)?;
        // A variable number of optional fields ends with a lone "-"; the file system type comes next.
        fields.find(|field| field == b"-")?;
        (fields.next()? == b"cgroup2").then(|| PathBuf::from(unescape(mount_point)))
    })
}

/// Undoes the octal escapes (`\040` for a space) that the kernel puts into paths.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = (byte == b'\\').then(|| tail.get(..3)).flatten().and_then(octal);
        if let Some(value) = escaped {
            plain.push(value);
            rest = &tail[3..];
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

fn octal(digits: &[u8]) -> Option<u8> {
    digits.iter().try_fold(0_u8, |value, &digit| {
        let digit = matches!(digit, b'0'..=b'7').then(|| digit - b'0')?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn finds_the_only_hierarchy() {
        let text = b"23 1 0:1 / /proc rw - proc proc rw\n30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mount_point(text).as_deref(), Some(Path::new("/sys/fs/cgroup")));
    }

    #[test]
    fn finds_v2_beside_v1() {
        let text = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount_point(text).as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn spaces_in_a_mount_point_are_decoded() {
        let text = b"41 31 0:38 / /a\\040b\\134 rw master:1 propagate_from:2 - cgroup2 x rw\n";
        assert_eq!(cgroup2_mount_point(text).as_deref(), Some(Path::new("/a b\\")));
    }

    #[test]
    fn nothing_is_found_in_garbage() {
        for text in
            [&b""[..], b"\n\n", b"cgroup2", b"1 2 3 4 5 6 - ", b"1 2 3 4 /x rw cgroup2 - tmpfs", b"\\9 \\"]
        {
            assert_eq!(cgroup2_mount_point(text), None);
        }
    }
}
