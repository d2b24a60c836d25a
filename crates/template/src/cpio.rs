//! Writes the archive format of an initramfs: cpio "newc" (`Documentation/driver-api/early-userspace/buffer-format.rst` of
//! the kernel).

/// Builds one archive in memory. Owner is root, times are zero: equal content gives equal bytes.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const TRAILER: &str = "TRAILER!!!";
/// Everything starts at a multiple of it.
const ALIGNMENT: usize = 4;

/// A file too big for the format, which counts in 32 bits.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooBig;

impl Archive {
    /// Adds a directory. Its parent comes first. `path` is relative: `modules/bus`.
    pub(crate) fn directory(&mut self, path: &str) -> Result<(), TooBig> {
        self.entry(path, DIRECTORY | 0o755, 2, &[])
    }

    /// Adds a file with the permissions `mode`.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<(), TooBig> {
        self.entry(path, FILE | mode, 1, content)
    }

    /// The complete archive.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, TooBig> {
        self.entries = 0;
        self.header(TRAILER, 0, 1, 0)?;
        Ok(self.bytes)
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) -> Result<(), TooBig> {
        self.entries += 1;
        self.header(path, mode, links, content.len())?;
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn header(&mut self, path: &str, mode: u32, links: u32, size: usize) -> Result<(), TooBig> {
        let size = u32::try_from(size).map_err(|_| TooBig)?;
        let name_size = u32::try_from(path.len() + 1).map_err(|_| TooBig)?;
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, user, group, links, time, size, device ×2, device number ×2, length of the name, checksum
        for field in [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"#!").unwrap();
        archive.directory("modules").unwrap();
        archive.file("modules/a.ko", 0o644, b"1234567").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn every_part_is_aligned_and_the_end_is_marked() {
        let bytes = sample();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        assert!(bytes.starts_with(b"070701"));
        assert!(bytes.windows(TRAILER.len()).any(|window| window == TRAILER.as_bytes()));
        assert_eq!(bytes, sample());
    }

    #[test]
    fn cpio_itself_reads_it() {
        let mut child = match Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            // The test above still holds; where cpio is installed, its word counts.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => panic!("{error}"),
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        let seen: Vec<_> =
            lines.iter().map(|fields| (fields[0], fields[4], *fields.last().unwrap())).collect();
        assert_eq!(
            seen,
            [
                ("-rwxr-xr-x", "2", "init"),
                ("drwxr-xr-x", "0", "modules"),
                ("-rw-r--r--", "7", "modules/a.ko")
            ]
        );
    }
}
