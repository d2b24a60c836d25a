//! File modes as text, the way clients print them.

// inode(7)
const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFIFO: u32 = 0o010_000;
const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_ISVTX: u32 = 0o1000;

/// The bits of `st_mode` as text: a letter per kind and flag (a dash when there is none), then the nine permissions.
/// `-rw-r--r--` is a file, `dtrwxrwxrwx` a directory with the sticky bit. Unlike with `ls`, flags do not replace an `x`.
pub(crate) fn permission_text(mode: u32) -> String {
    let mut text = String::with_capacity(12);
    let kind = mode & S_IFMT;
    text.extend(match kind {
        S_IFDIR => Some('d'),
        S_IFLNK => Some('L'),
        S_IFBLK | S_IFCHR => Some('D'),
        S_IFIFO => Some('p'),
        S_IFSOCK => Some('S'),
        _ => None,
    });
    for (has, letter) in [
        (mode & S_ISUID != 0, 'u'),
        (mode & S_ISGID != 0, 'g'),
        (kind == S_IFCHR, 'c'),
        (mode & S_ISVTX != 0, 't'),
    ] {
        text.extend(has.then_some(letter));
    }
    if text.is_empty() {
        text.push('-');
    }
    for (index, letter) in "rwxrwxrwx".chars().enumerate() {
        text.push(if mode & (0o400 >> index) != 0 { letter } else { '-' });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_flags() {
        for (mode, expected) in [
            (0o100_644, "-rw-r--r--"),
            (0o100_000, "----------"),
            (0o040_755, "drwxr-xr-x"),
            (0o041_777, "dtrwxrwxrwx"),
            (0o120_777, "Lrwxrwxrwx"),
            (0o104_755, "urwxr-xr-x"),
            (0o102_755, "grwxr-xr-x"),
            (0o106_711, "ugrwx--x--x"),
            (0o042_775, "dgrwxrwxr-x"),
            (0o020_666, "Dcrw-rw-rw-"),
            (0o060_660, "Drw-rw----"),
            (0o010_600, "prw-------"),
            (0o140_755, "Srwxr-xr-x"),
        ] {
            assert_eq!(permission_text(mode), expected, "{mode:o}");
        }
    }
}
