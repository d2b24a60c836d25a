//! Laying one layer over what is there.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use rustix::process::{Resource, Rlimit, setrlimit};
use tar::{Archive, EntryType};

use download::whole;

/// How the names of files begin that say what of the layers below is gone.
const WHITEOUT: &[u8] = b".wh.";
/// The name of one that says so of everything in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// No layer has more.
const MAX_ENTRIES: u64 = 4 << 20;
/// An archive has so much beside what is in a file, most of the time.
const HEADER_BYTES: u64 = 2048;
/// What a process needs that unpacks, generously: names of any length are held in memory.
const MEMORY_BYTES: u64 = 1 << 30;
/// What a gzip stream begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive, or the place for it.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, and on what.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// What is in it.
    #[error("{0}")]
    Refused(String),
}

/// Makes `root` the root of this process, which can reach nothing else from then on, and has little memory, and unpacks the layer in `file` into it:
/// plain or compressed with gzip, at most `limit` bytes. To be called by a process that does nothing else.
///
/// Devices are left out: a guest makes its own.
///
/// # Errors
/// When the archive is damaged, holds more, or the place for it fails.
pub fn unpack(file: File, root: &Path, limit: u64) -> Result<(), UnpackError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source| UnpackError::Io { what, source }
    };
    let memory = Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) };
    setrlimit(Resource::As, memory).map_err(|error| failed("bounding the memory")(error.into()))?;
    rustix::process::chroot(root).map_err(|error| failed("entering the directory")(error.into()))?;
    std::env::set_current_dir("/").map_err(failed("entering the directory"))?;
    let mut file = BufReader::new(file);
    let mut head = [0; 2];
    let begins = io::BufRead::fill_buf(&mut file).map_err(failed("reading the layer"))?;
    let length = begins.len().min(head.len());
    head[..length].copy_from_slice(&begins[..length]);
    let plain: Box<dyn Read> =
        if head == GZIP { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    lay(plain, Path::new("/"), limit)
}

/// Lays a layer over what is in `root`.
fn lay(layer: impl Read, root: &Path, limit: u64) -> Result<(), UnpackError> {
    // All contents and all headers there may be.
    let mut archive = Archive::new(layer.take(limit.saturating_add(MAX_ENTRIES * HEADER_BYTES)));
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(true);
    archive.set_preserve_mtime(true);
    archive.set_unpack_xattrs(true);
    archive.set_overwrite(true);
    let damaged = |source| UnpackError::Io { what: "reading the layer".into(), source };
    let (mut bytes, mut count) = (0_u64, 0_u64);
    let mut ours = HashSet::new();
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let path = clean(&entry.path().map_err(damaged)?)?;
        bytes = bytes.saturating_add(entry.size());
        count += 1;
        if bytes > limit || count > MAX_ENTRIES {
            return Err(UnpackError::Refused(format!(
                "the layer holds more than {limit} bytes or {MAX_ENTRIES} files"
            )));
        }
        // What the library says is only the last of it.
        let failed = |error: io::Error| UnpackError::Io {
            what: format!("unpacking {}", path.display()),
            source: io::Error::other(whole(&error)),
        };
        let Some(name) = path.file_name().map(OsStr::as_bytes) else { continue };
        if name == OPAQUE {
            empty(&root.join(path.parent().unwrap_or(Path::new(""))), root, &ours).map_err(failed)?;
            continue;
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            remove(&root.join(&path).with_file_name(OsStr::from_bytes(gone))).map_err(failed)?;
            continue;
        }
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Block | EntryType::Char) {
            continue;
        }
        let target = root.join(&path);
        // Something else may be there: what a layer says replaces it.
        if let Ok(there) = fs::symlink_metadata(&target)
            && !(there.is_dir() && kind == EntryType::Directory)
        {
            remove(&target).map_err(failed)?;
        }
        entry.unpack_in(root).map_err(failed)?;
        ours.insert(path);
    }
    Ok(())
}

/// Writes a layer with one file in it, which everybody may read.
///
/// # Errors
/// When it cannot be written.
pub fn layer_of(layer: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let mut builder = tar::Builder::new(File::create_new(layer)?);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, name, content)?;
    builder.into_inner()?.sync_all()
}

/// A path below the root, whatever it says.
fn clean(path: &Path) -> Result<PathBuf, UnpackError> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                return Err(UnpackError::Refused(format!("the layer has the path {}", path.display())));
            }
        }
    }
    Ok(clean)
}

/// Removes what is in a directory, apart from what this layer has put there.
fn empty(dir: &Path, root: &Path, ours: &HashSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let relative = path.strip_prefix(root).unwrap_or(&path);
        if ours.contains(relative) {
            if fs::symlink_metadata(&path)?.is_dir() {
                empty(&path, root, ours)?;
            }
        } else {
            remove(&path)?;
        }
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use tar::{Builder, Header};

    use super::*;

    const LIMIT: u64 = 1 << 20;

    enum Item<'a> {
        File(&'a str, &'a str),
        Directory(&'a str),
        Link(&'a str, &'a str),
        Hard(&'a str, &'a str),
        Device(&'a str),
    }

    use Item::{Device, Directory, File as Plain, Hard, Link};

    fn layer(items: &[Item<'_>]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for item in items {
            let mut header = Header::new_gnu();
            header.set_uid(1234);
            header.set_gid(99);
            header.set_mode(0o750);
            let (path, content, target) = match item {
                Plain(path, content) => (*path, *content, None),
                Directory(path) => {
                    header.set_entry_type(EntryType::Directory);
                    (*path, "", None)
                }
                Link(path, target) => {
                    header.set_entry_type(EntryType::Symlink);
                    (*path, "", Some(*target))
                }
                Hard(path, target) => {
                    header.set_entry_type(EntryType::Link);
                    (*path, "", Some(*target))
                }
                Device(path) => {
                    header.set_entry_type(EntryType::Char);
                    (*path, "", None)
                }
            };
            header.set_size(content.len() as u64);
            // As it is: what the library would refuse to write is what matters.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            if let Some(target) = target {
                header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
            }
            header.set_cksum();
            builder.append(&header, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn laid(layers: &[&[Item<'_>]]) -> Result<tempfile::TempDir, UnpackError> {
        let root = tempfile::tempdir().unwrap();
        layers.iter().try_for_each(|items| lay(layer(items).as_slice(), root.path(), LIMIT))?;
        Ok(root)
    }

    fn read(root: &tempfile::TempDir, path: &str) -> Option<String> {
        fs::read_to_string(root.path().join(path)).ok()
    }

    #[test]
    fn files_have_their_owners_and_modes_and_a_later_layer_wins() {
        let root = laid(&[
            &[
                Directory("d/"),
                Plain("d/a", "one"),
                Plain("d/b", "two"),
                Link("l", "d/a"),
                Hard("h", "d/b"),
                Device("null"),
            ],
            &[
                Plain("d/a", "other"),
                Plain("./d/c", "three"),
                Link("d/b", "c"),
                Directory("l/"),
                Plain("/l/x", "in"),
            ],
        ])
        .unwrap();
        assert_eq!(read(&root, "d/a").as_deref(), Some("other"));
        assert_eq!(read(&root, "d/b").as_deref(), Some("three"), "a link to it by now");
        assert_eq!(read(&root, "h").as_deref(), Some("two"));
        assert_eq!(read(&root, "l/x").as_deref(), Some("in"), "a directory in place of a link");
        let meta = fs::metadata(root.path().join("d/a")).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.permissions().mode() & 0o777), (1234, 99, 0o750));
        assert!(!root.path().join("null").exists());
    }

    #[test]
    fn what_a_layer_takes_away_is_gone_and_what_it_brings_is_not() {
        let root = laid(&[
            &[
                Plain("d/a", "1"),
                Plain("d/b", "2"),
                Plain("d/s/x", "3"),
                Plain("e/a", "4"),
                Plain("e/b", "5"),
                Plain("f", "6"),
            ],
            &[
                Plain("d/.wh.a", ""),
                Plain("d/.wh.s", ""),
                Plain("e/b", "new"),
                Plain("e/.wh..wh..opq", ""),
                Plain(".wh.f", ""),
                Plain("n/.wh..wh..opq", ""),
            ],
        ])
        .unwrap();
        for gone in ["d/a", "d/s", "e/a", "f", "d/.wh.a", "e/.wh..wh..opq"] {
            assert!(!root.path().join(gone).exists(), "{gone}");
        }
        assert_eq!((read(&root, "d/b").as_deref(), read(&root, "e/b").as_deref()), (Some("2"), Some("new")));
    }

    #[test]
    fn nothing_leads_out() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("theirs"), "untouched").unwrap();
        let there = outside.path().to_str().unwrap().to_owned();
        for items in [
            vec![Plain("../theirs", "x")],
            vec![Plain("d/../../theirs", "x")],
            vec![Link("d", &there), Plain("d/theirs", "x")],
            vec![Link("d", &there), Plain("d/.wh.theirs", "")],
            vec![Link("d", &there), Plain("d/.wh..wh..opq", "")],
            vec![Hard("h", &there)],
        ] {
            let root = tempfile::tempdir().unwrap();
            let theirs = outside.path().join("theirs");
            // As `unpack` does it, in a process of its own: here the test harness would be locked in.
            let file = root.path().join("layer");
            fs::write(&file, layer(&items)).unwrap();
            let place = root.path().join("root");
            fs::create_dir(&place).unwrap();
            let pid = std::thread::spawn({
                let (file, place) = (File::open(&file).unwrap(), place.clone());
                move || {
                    // A thread with a root of its own.
                    #[allow(deprecated, reason = "what is unsafe about others is not about this one")]
                    rustix::thread::unshare(rustix::thread::UnshareFlags::FS).unwrap();
                    unpack(file, &place, LIMIT)
                }
            });
            let _ = pid.join().unwrap();
            assert_eq!(fs::read_to_string(theirs).unwrap(), "untouched");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn there_is_a_limit_and_damage_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let items = layer(&[Plain("a", "12345678"), Plain("b", "12345678")]);
        assert!(matches!(lay(items.as_slice(), root.path(), 15), Err(UnpackError::Refused(_))));
        lay(items.as_slice(), root.path(), 16).unwrap();
        let mut damaged = items.clone();
        damaged[3] ^= 1;
        assert!(lay(damaged.as_slice(), root.path(), LIMIT).is_err());
        assert!(lay(&items[..700], root.path(), LIMIT).is_err());
        // What is there already may be anything.
        symlink("nowhere", root.path().join("c")).unwrap();
        lay(layer(&[Plain("c", "now")]).as_slice(), root.path(), LIMIT).unwrap();
        assert_eq!(read(&root, "c").as_deref(), Some("now"));
    }
}
