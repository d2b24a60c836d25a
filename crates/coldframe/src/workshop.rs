//! A place on this host for the machines of one command, beside a server or without one.
//!
//! ```text
//!               its number
//!   command <──────────────── keeper: locks the place, makes its directory
//!           ────────────────>         removes everything that was made in it
//!              end of the pipe
//! ```
//! The keeper is a child of the command. It removes the place as soon as the command is gone, whether that was done, failed,
//! was interrupted or was killed: there is one way to the end, and it is always taken. What a keeper left that was killed
//! itself, the command removes, and if both were, the next command or server does.
//!
//! A place has a directory for its sandboxes and a tag for what they have in the kernel, both by its number, so nothing of it
//! can be taken for that of a server or of another place.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use network::InstanceTag;
use tokio::net::unix::pipe::Receiver;

use crate::Outcome;
use crate::state::StateDir;

/// So many commands at once: each has machines, of which a host has room for fewer.
pub(crate) const MAX_PLACES: u16 = 64;

/// A place that this process uses.
#[derive(Debug)]
pub(crate) struct Workshop {
    state: StateDir,
    number: u16,
    keeper: Child,
    /// Ends with the keeper.
    said: Option<OwnedFd>,
}

impl Workshop {
    /// Has a keeper make a place: that of a number, or the first that is free.
    pub(crate) fn open(state: &StateDir, number: Option<u16>) -> Result<Self, String> {
        let failed = |error: &dyn std::fmt::Display| format!("starting the keeper of a workshop: {error}");
        let mut keeper = Command::new("/proc/self/exe");
        keeper.args(["build", "keep", "--state"]).arg(state.root());
        keeper.args(number.map(|number| format!("--workshop={number}")));
        // What is typed to interrupt the command is not for its keeper.
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut keeper = keeper.spawn().map_err(|error| failed(&error))?;
        let mut said = BufReader::new(keeper.stdout.take().ok_or_else(|| failed(&"it has no output"))?);
        let mut line = String::new();
        said.read_line(&mut line).map_err(|error| failed(&error))?;
        // What went wrong it has told whoever sees our errors.
        let number = line.trim().parse().map_err(|_| failed(&"it made none"))?;
        Ok(Self { state: state.clone(), number, keeper, said: Some(said.into_inner().into()) })
    }

    /// Where the directories of its sandboxes are.
    pub(crate) fn sandboxes(&self) -> PathBuf {
        directory(&self.state, self.number)
    }

    /// What tells what it has in the kernel from what others have.
    pub(crate) fn tag(&self) -> InstanceTag {
        self.state.workshop_tag(self.number)
    }

    /// Returns when there is no keeper any more, and why nothing more can be done here.
    pub(crate) async fn abandoned(&mut self) -> String {
        let text = || "the keeper of the workshop was killed".to_owned();
        let Some(said) = self.said.take().and_then(|said| Receiver::from_owned_fd(said).ok()) else {
            return text();
        };
        // It says nothing more: the end is all there is to hear.
        let _ = said.readable().await;
        text()
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        if self.keeper.wait().is_ok_and(|status| status.success()) {
            return;
        }
        let removed =
            Place::lock(&self.state, self.number).map(|place| place.map(|place| place.remove_now()));
        match removed {
            // Whoever has it by now has removed what was in it.
            Ok(None | Some(Ok(()))) => {}
            Ok(Some(Err(error))) | Err(error) => eprintln!("coldframe: {error}"),
        }
    }
}

/// The life of a keeper.
pub(crate) fn keep(dir: &Path, number: Option<u16>) -> Outcome {
    let state = StateDir::open(dir)?;
    runtime()?.block_on(sweep(&state));
    let place = Place::claim(&state, number)?;
    let mut said = io::stdout();
    writeln!(said, "{}", place.number).and_then(|()| said.flush()).map_err(|error| error.to_string())?;
    // An error is an end, too.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    place.remove_now()?;
    Ok(ExitCode::SUCCESS)
}

/// Removes the places that nobody uses and whose keepers did not come to do it.
pub(crate) async fn sweep(state: &StateDir) {
    for number in (0..MAX_PLACES).filter(|number| directory(state, *number).exists()) {
        let swept = match Place::lock(state, number) {
            Ok(Some(place)) => place.remove().await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = swept {
            tracing::warn!(error, "removing what a command left that was killed");
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("starting the runtime: {error}"))
}

fn directory(state: &StateDir, number: u16) -> PathBuf {
    state.workshops().join(number.to_string())
}

/// A place that is nobody else's.
struct Place {
    state: StateDir,
    number: u16,
    _lock: File,
}

impl Place {
    /// One that nobody uses, with an empty directory: that of a number, or the first.
    fn claim(state: &StateDir, number: Option<u16>) -> Result<Self, String> {
        for number in number.map_or(0..MAX_PLACES, |number| number..number + 1) {
            // A tag is a short digest: one in some thousand state directories has a number with the server's own.
            if state.workshop_tag(number) == state.tag() {
                continue;
            }
            let Some(place) = Self::lock(state, number)? else { continue };
            let dir = directory(state, number);
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|error| format!("making {}: {error}", dir.display()))?;
            return Ok(place);
        }
        let place = number.map_or_else(|| "all of".to_owned(), |number| format!("number {number} in"));
        Err(format!("{place} {} is in use", state.workshops().display()))
    }

    /// The place of this number; `None` when somebody uses it.
    fn lock(state: &StateDir, number: u16) -> Result<Option<Self>, String> {
        let dir = state.workshops();
        let path = dir.join(format!("{number}.lock"));
        let locked = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path)?;
            match lock.try_lock() {
                Ok(()) => Ok(Some(Self { state: state.clone(), number, _lock: lock })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        locked().map_err(|error: io::Error| format!("locking {}: {error}", path.display()))
    }

    fn remove_now(&self) -> Result<(), String> {
        runtime()?.block_on(self.remove())
    }

    /// Ends its sandboxes and removes everything that was made in it.
    async fn remove(&self) -> Result<(), String> {
        let dir = directory(&self.state, self.number);
        if !dir.exists() {
            return Ok(());
        }
        let failed = |error: &dyn std::fmt::Display| format!("removing {}: {error}", dir.display());
        node::remove_everything(&dir, self.state.workshop_tag(self.number))
            .await
            .map_err(|error| failed(&error))?;
        // Last: as long as it is there, somebody comes to remove the rest.
        std::fs::remove_dir_all(&dir).map_err(|error| failed(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_process_s_until_it_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let first = Place::claim(&state, None).unwrap();
        let second = Place::claim(&state, None).unwrap();
        let fifth = Place::claim(&state, Some(5)).unwrap();
        assert_eq!(fifth.number, 5);
        assert!(Place::claim(&state, Some(5)).is_err_and(|error| error.starts_with("number 5 in ")));
        assert_ne!(first.number, second.number);
        assert_ne!(state.workshop_tag(first.number), state.workshop_tag(second.number));
        assert!(Place::lock(&state, first.number).unwrap().is_none());
        let number = first.number;
        assert!(directory(&state, number).is_dir());
        drop(first);
        assert_eq!(Place::claim(&state, None).unwrap().number, number);
    }
}
