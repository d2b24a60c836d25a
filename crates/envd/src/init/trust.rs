//! Certificates that the sandbox's programs are to trust. All of this blocks.
//!
//! They are written to two places: to the bundle that programs read, which then holds them and no earlier ones of ours,
//! and to a file of their own, from which `update-ca-certificates` makes the bundle anew. That file also says, after a
//! restart of this daemon, which ones were ours.

use std::fs::{File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What programs read, in Debian and its kin. Below the root.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Ours alone.
const OWN: &str = "usr/local/share/ca-certificates/e2b-ca.crt";
/// Longest file that is rewritten. A bundle of all public authorities has some 200 KiB.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// Makes programs trust these certificates, and no longer those of the last time. Written twice, they are there once.
///
/// # Errors
/// What the file system says. The bundle is either as before or as it should be.
pub(super) fn install(root: &Path, certificates: &str) -> io::Result<()> {
    let (bundle, own) = (root.join(BUNDLE), root.join(OWN));
    let previous = read(&own)?;
    // A link stays one.
    let bundle = std::fs::canonicalize(&bundle).unwrap_or(bundle);
    let before = read(&bundle)?;
    let after = with(&before, &previous, certificates.as_bytes());
    if after != before {
        replace(&bundle, &after)?;
    }
    // Afterwards: if there is no room for it, the next time finds what the bundle still has.
    if previous != certificates.as_bytes() {
        replace(&own, certificates.as_bytes())?;
    }
    Ok(())
}

/// The bundle without the previous certificates and with the new ones at its end.
fn with(bundle: &[u8], previous: &[u8], certificates: &[u8]) -> Vec<u8> {
    let mut after = without(bundle, previous);
    if previous != certificates {
        after = without(&after, certificates);
    }
    if !after.is_empty() && !after.ends_with(b"\n") {
        after.push(b'\n');
    }
    after.extend_from_slice(certificates);
    after
}

fn without(text: &[u8], part: &[u8]) -> Vec<u8> {
    if part.is_empty() {
        return text.to_vec();
    }
    let mut after = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, part) {
        after.extend_from_slice(&rest[..at]);
        rest = &rest[at + part.len()..];
    }
    after.extend_from_slice(rest);
    after
}

/// What is in a file; nothing when there is none.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(named(path, &error)),
    };
    if !metadata.is_file() {
        return Err(named(path, &io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")));
    }
    let mut contents = Vec::new();
    let file = File::open(path).map_err(|error| named(path, &error))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut contents).map_err(|error| named(path, &error))?;
    if contents.len() as u64 > MAX_FILE_BYTES {
        return Err(named(path, &io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 16 MiB")));
    }
    Ok(contents)
}

/// Puts contents where a file is, in one step where that can be: a file that somebody has mounted there can only be
/// written in place.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let step = || {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let temporary = beside(path);
        let _ = std::fs::remove_file(&temporary);
        let made = std::fs::write(&temporary, contents)
            .and_then(|()| std::fs::set_permissions(&temporary, Permissions::from_mode(0o644)))
            .and_then(|()| std::fs::rename(&temporary, path));
        if made.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
        match made {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => std::fs::write(path, contents),
            other => other,
        }
    };
    step().map_err(|error: io::Error| named(path, &error))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".envd.tmp");
    path.with_file_name(name)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(tempfile::TempDir);

    impl Root {
        fn new(bundle: Option<&str>) -> Self {
            let root = Self(tempfile::tempdir().unwrap());
            if let Some(bundle) = bundle {
                std::fs::create_dir_all(root.0.path().join(BUNDLE).parent().unwrap()).unwrap();
                std::fs::write(root.0.path().join(BUNDLE), bundle).unwrap();
            }
            root
        }

        fn install(&self, certificates: &str) -> String {
            install(self.0.path(), certificates).unwrap();
            assert_eq!(self.read(OWN), certificates);
            let bundle = self.0.path().join(BUNDLE);
            assert_eq!(std::fs::metadata(&bundle).unwrap().permissions().mode() & 0o777, 0o644);
            assert_eq!(std::fs::read_dir(bundle.parent().unwrap()).unwrap().count(), 1);
            self.read(BUNDLE)
        }

        fn read(&self, path: &str) -> String {
            std::fs::read_to_string(self.0.path().join(path)).unwrap()
        }
    }

    #[test]
    fn the_last_ones_are_there_once_and_the_ones_before_are_gone() {
        let root = Root::new(Some("public\n"));
        assert_eq!(root.install("A\n"), "public\nA\n");
        assert_eq!(root.install("A\n"), "public\nA\n");
        assert_eq!(root.install("B\nC\n"), "public\nB\nC\n");
        assert_eq!(root.install("A\n"), "public\nA\n");
        // As after `update-ca-certificates`, which puts all together in an order of its own.
        std::fs::write(root.0.path().join(BUNDLE), "A\npublic").unwrap();
        assert_eq!(root.install("B\n"), "public\nB\n");
        // Somebody has removed it.
        std::fs::write(root.0.path().join(BUNDLE), "public\n").unwrap();
        assert_eq!(root.install("B\n"), "public\nB\n");
    }

    #[test]
    fn an_image_without_a_bundle_gets_one() {
        assert_eq!(Root::new(None).install("A\n"), "A\n");
        assert_eq!(Root::new(Some("")).install("A\n"), "A\n");
    }

    #[test]
    fn what_cannot_be_written_stays_as_it_is_and_is_named() {
        let root = Root::new(None);
        std::fs::create_dir_all(root.0.path().join(BUNDLE)).unwrap();
        let error = install(root.0.path(), "A\n").unwrap_err().to_string();
        assert!(error.contains(BUNDLE), "{error}");
        assert!(!root.0.path().join(OWN).exists());
    }

    #[test]
    fn a_link_to_the_bundle_stays_one() {
        let root = Root::new(Some("public\n"));
        let bundle = root.0.path().join(BUNDLE);
        let real = root.0.path().join("real");
        std::fs::rename(&bundle, &real).unwrap();
        std::os::unix::fs::symlink(&real, &bundle).unwrap();
        install(root.0.path(), "A\n").unwrap();
        assert_eq!((root.read("real").as_str(), bundle.is_symlink()), ("public\nA\n", true));
    }
}
