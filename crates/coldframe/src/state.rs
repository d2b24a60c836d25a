//! The state directory: every path that a server uses, in one place.
//!
//! ```text
//! <state>/catalog.db                    teams, keys, templates                       0600
//! <state>/accel.json                    which accelerator the probe chose
//! <state>/kernels/, builds/, cache/     what crate `template` makes
//! <state>/store/                        builds: snapshots of templates and paused sandboxes  0700
//! <state>/run/server.json               address and process of the running server
//! <state>/run/server.lock               held while a server runs
//! <state>/run/server.log                output of a server in the background
//! <state>/run/credentials               the key that `coldframe env` prints           0600
//! <state>/run/sandboxes/<id>/           one per sandbox, private
//! <state>/run/workshops/<n>/            machines of a command, while it runs: see `workshop`   0700
//! ```

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The state directory unless `--state` or `COLDFRAME_STATE` names another.
pub(crate) const DEFAULT: &str = "/var/lib/coldframe";

/// A unix socket's path holds 108 bytes; what is below the state directory needs 60 of them.
const MAX_PATH_BYTES: usize = 48;

/// Whoever looks for a running server has the lock for a moment, and so has a child between its start and its program.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// Paths below one state directory.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    root: PathBuf,
}

/// Where the running server is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ServerFile {
    pub(crate) pid: i32,
    pub(crate) url: String,
    /// Which binary it is.
    #[serde(default)]
    pub(crate) build: String,
}

impl StateDir {
    /// Opens the directory, making it when it is missing.
    pub(crate) fn open(root: &Path) -> Result<Self, String> {
        let make = |path: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
        let opened = || {
            // The VMM reads kernels as another user, so the root can be passed through; what is private is private itself.
            make(root, 0o755)?;
            let root = root.canonicalize()?;
            make(&root.join("run"), 0o711)?;
            make(&root.join("run/sandboxes"), 0o700)?;
            Ok::<_, io::Error>(root)
        };
        let root = opened().map_err(|error| {
            format!(
                "the state directory {} cannot be used: {error}; run as root, or choose another with --state",
                root.display()
            )
        })?;
        if root.as_os_str().len() > MAX_PATH_BYTES {
            return Err(format!(
                "the state directory {} has a path of more than {MAX_PATH_BYTES} bytes: choose a shorter one with --state",
                root.display()
            ));
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where builds are kept.
    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.root.join("catalog.db")
    }

    pub(crate) fn accel(&self) -> PathBuf {
        self.root.join("accel.json")
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.root.join("run/sandboxes")
    }

    /// Where commands have places for machines of their own.
    pub(crate) fn workshops(&self) -> PathBuf {
        self.root.join("run/workshops")
    }

    pub(crate) fn server_log(&self) -> PathBuf {
        self.root.join("run/server.log")
    }

    fn server_file(&self) -> PathBuf {
        self.root.join("run/server.json")
    }

    fn credentials(&self) -> PathBuf {
        self.root.join("run/credentials")
    }

    /// What tells this state directory's objects in the kernel from those of others on the host.
    pub(crate) fn tag(&self) -> network::InstanceTag {
        tag_of(Sha256::new(), &self.root)
    }

    /// The same of one of its workshops.
    pub(crate) fn workshop_tag(&self, number: u16) -> network::InstanceTag {
        tag_of(Sha256::new_with_prefix(number.to_be_bytes()), &self.root)
    }

    /// Makes this process the only server of the directory for as long as the file is open.
    pub(crate) fn lock(&self) -> Result<File, String> {
        let path = self.root.join("run/server.lock");
        let locked = || {
            let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            let deadline = Instant::now() + LOCK_PATIENCE;
            loop {
                match file.try_lock() {
                    Ok(()) => return Ok(file),
                    Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                        std::thread::sleep(LOCK_LOOK)
                    }
                    Err(error) => return Err(io::Error::from(error)),
                }
            }
        };
        locked().map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => format!(
                "another coldframe uses {}; stop it with `coldframe down`, or choose another directory with --state",
                self.root.display()
            ),
            _ => format!("locking {}: {error}", path.display()),
        })
    }

    /// The running server; `None` when none runs, whatever a killed one left.
    pub(crate) fn server(&self) -> Option<ServerFile> {
        let file: ServerFile = serde_json::from_slice(&std::fs::read(self.server_file()).ok()?).ok()?;
        // The lock is the truth: a file can outlive its writer, a lock cannot.
        let free =
            File::options().write(true).open(self.root.join("run/server.lock")).ok()?.try_lock().is_ok();
        (!free).then_some(file)
    }

    pub(crate) fn write_server(&self, server: &ServerFile) -> io::Result<()> {
        publish(&self.server_file(), &serde_json::to_vec(server)?)
    }

    pub(crate) fn remove_server(&self) {
        // A leftover is harmless: the lock says that nobody runs.
        let _ = std::fs::remove_file(self.server_file());
    }

    /// The key that `coldframe env` prints.
    pub(crate) fn key(&self) -> Option<model::Secret> {
        let text = std::fs::read_to_string(self.credentials()).ok()?;
        Some(model::Secret::new(text.trim_end()))
    }

    pub(crate) fn write_key(&self, key: &model::Secret) -> io::Result<()> {
        publish(&self.credentials(), format!("{}\n", key.expose()).as_bytes())
    }
}

fn tag_of(digest: Sha256, path: &Path) -> network::InstanceTag {
    let digest = digest.chain_update(path.as_os_str().as_encoded_bytes()).finalize();
    network::InstanceTag::new(u16::from_be_bytes([digest[0], digest[1]]))
}

/// Replaces a private file at once: a reader sees the old one or the new one.
fn publish(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}
