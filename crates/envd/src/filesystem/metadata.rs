//! What clients attach to a file: extended attributes in a namespace of their own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{XattrFlags, flistxattr, fremovexattr, fsetxattr, getxattr, listxattr};
use rustix::io::Errno;

/// Where the attributes live: `user.e2b.<key>`.
const PREFIX: &str = "user.e2b.";

/// Longest list of attribute names and longest value that Linux knows, in bytes (xattr(7)).
const MAX_XATTR: usize = 65_536;

/// The metadata of the file at a path, links followed. Attributes that are not text are left out; a file system without
/// attributes has none.
pub(crate) fn read(path: &Path) -> BTreeMap<String, String> {
    // Nearly every file has no attribute at all: the first answer is an empty list, without a buffer.
    let Ok(list) = with_buffer(|buffer| listxattr(path, buffer)) else { return BTreeMap::new() };
    names(&list)
        .filter_map(|name| {
            let value = with_buffer(|buffer| getxattr(path, name, buffer)).ok()?;
            Some((name[PREFIX.len()..].to_owned(), String::from_utf8(value).ok()?))
        })
        .collect()
}

/// Makes `wanted` the metadata of an open file: what it had before goes away. A file system without attributes is left
/// alone.
///
/// # Errors
///
/// When the kernel refuses, for example because there is no space left.
pub(crate) fn replace(file: impl AsFd, wanted: &BTreeMap<String, String>) -> io::Result<()> {
    let file = file.as_fd();
    let outcome = (|| {
        let list = with_buffer(|buffer| flistxattr(file, buffer))?;
        for name in names(&list).filter(|name| !wanted.contains_key(&name[PREFIX.len()..])) {
            match fremovexattr(file, name) {
                Err(Errno::NODATA) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        for (key, value) in wanted {
            fsetxattr(file, format!("{PREFIX}{key}"), value.as_bytes(), XattrFlags::empty())?;
        }
        Ok(())
    })();
    match outcome {
        Err(Errno::OPNOTSUPP) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

/// Our names in a list of names, each of which ends with a NUL.
fn names(list: &[u8]) -> impl Iterator<Item = &str> {
    list.split(|byte| *byte == 0)
        .filter_map(|name| std::str::from_utf8(name).ok())
        .filter(|name| name.len() > PREFIX.len() && name.starts_with(PREFIX))
}

/// Calls with a small buffer, then with the largest one that can be needed.
fn with_buffer(call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0_u8; 512];
    match call(&mut small) {
        Ok(length) => Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; MAX_XATTR];
            let length = call(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacing_removes_what_is_not_wanted_and_leaves_other_namespaces_alone() {
        let path = std::env::temp_dir().join(format!("envd-metadata-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        fsetxattr(&file, "user.other", b"x", XattrFlags::empty()).unwrap();
        let first = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".repeat(1000))]);
        replace(&file, &first).unwrap();
        assert_eq!(read(&path), first);
        let second = BTreeMap::from([("b".to_owned(), "3".to_owned()), ("c".to_owned(), String::new())]);
        replace(&file, &second).unwrap();
        assert_eq!(read(&path), second);
        fsetxattr(&file, "user.e2b.binary", b"\xff", XattrFlags::empty()).unwrap();
        assert_eq!(read(&path), second);
        replace(&file, &BTreeMap::new()).unwrap();
        assert!(read(&path).is_empty());
        assert_eq!(listxattr(&path, &mut [0_u8; 64][..]).unwrap(), "user.other\0".len());
        std::fs::remove_file(&path).unwrap();
    }
}
