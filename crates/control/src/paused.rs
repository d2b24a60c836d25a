//! The file that makes a pause count.
//!
//! A supervisor writes it as the last step of a pause, after the build is on stable storage. From then on the sandbox is
//! paused whatever happens to supervisor, server or host: whoever finds the file enters it into the catalog, and only
//! then may the directory be removed.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use model::PausedSandbox;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Name of the record in a sandbox's directory. It holds the sandbox's tokens: mode 0600.
pub const PAUSED_FILE: &str = "paused.json";
/// No record is longer: see the launch file.
const MAX_BYTES: u64 = 8 << 20;

/// The file: the record's own text, and its checksum. Nothing else would tell another sandbox, build or token from the
/// right one.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    crc32c: u32,
    #[serde(borrow)]
    paused: &'a RawValue,
}

/// Writes the record of the sandbox directory `dir`; it is on stable storage when this returns, and so is the directory's
/// own name.
///
/// # Errors
/// When it cannot be written. There is none then, or one that was there before.
pub fn write_paused(dir: &Path, paused: &PausedSandbox) -> io::Result<()> {
    let (path, new) = (dir.join(PAUSED_FILE), dir.join("paused.new"));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    let paused = serde_json::value::to_raw_value(paused)?;
    let crc32c = build::checksum(paused.get().as_bytes());
    file.write_all(&serde_json::to_vec(&Envelope { crc32c, paused: &paused })?)?;
    file.sync_all()?;
    // Nobody had a reason to sync it when the sandbox was made.
    sync_dir(&dir.join(".."))?;
    std::fs::rename(&new, path)?;
    let synced = sync_dir(dir);
    if synced.is_err() {
        // Whoever is told that it failed deletes the build: its record must not be there after all.
        remove_paused(dir)?;
    }
    synced
}

/// The record of the sandbox directory `dir`, which is called after its sandbox, if that was paused.
///
/// # Errors
/// When there is one that cannot be read, or is not what was written.
pub fn read_paused(dir: &Path) -> io::Result<Option<PausedSandbox>> {
    let path = dir.join(PAUSED_FILE);
    let size = match std::fs::metadata(&path) {
        Ok(meta) => meta.len(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    if size > MAX_BYTES {
        return Err(io::Error::other(format!("{size} bytes, more than the {MAX_BYTES} allowed")));
    }
    let bytes = std::fs::read(&path)?;
    let Envelope { crc32c, paused } = serde_json::from_slice(&bytes)?;
    let found = build::checksum(paused.get().as_bytes());
    if found != crc32c {
        let text = format!("it is damaged: its checksum is {found:08x}, expected {crc32c:08x}");
        return Err(io::Error::new(ErrorKind::InvalidData, text));
    }
    let paused: PausedSandbox = serde_json::from_str(paused.get())?;
    let id = paused.spec.id.as_str();
    if dir.file_stem() != Some(id.as_ref()) {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it is the record of sandbox {id}")));
    }
    Ok(Some(paused))
}

/// Takes a pause back: the sandbox was killed before anybody was told of it.
///
/// # Errors
/// When there is a record that cannot be removed.
pub fn remove_paused(dir: &Path) -> io::Result<()> {
    match std::fs::remove_file(dir.join(PAUSED_FILE)) {
        Ok(()) => sync_dir(dir),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
