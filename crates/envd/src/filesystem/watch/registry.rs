//! Watchers whose changes are fetched from time to time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::event::Event;
use super::watcher::Watcher;
use crate::filesystem::error::FsError;

/// Most watchers at once. The kernel allows a user 128 inotify instances by default; streams and other programs need
/// some, too.
const MAX_WATCHERS: usize = 512;

/// How long one may not be asked before it is taken for forgotten: as long as a sandbox may run at most. Time in which
/// the machine is paused does not count.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

const ID_ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ID_LENGTH: usize = 20;

/// All of them, by id. They live until they are removed, or forgotten by their clients when somebody wants another one.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    by_id: Mutex<HashMap<String, Collected>>,
}

#[derive(Debug)]
struct Collected {
    watcher: Arc<Watcher>,
    collecting: AbortHandle,
    asked: Instant,
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.collecting.abort();
    }
}

impl Watchers {
    /// Starts to collect the changes of a watcher and names it.
    ///
    /// # Errors
    ///
    /// When there are too many, or the kernel has no randomness.
    pub(crate) fn add(&self, watcher: Watcher) -> Result<String, FsError> {
        let id = random_id()?;
        let mut by_id = self.by_id();
        by_id.retain(|_, collected| collected.asked.elapsed() < FORGOTTEN);
        if by_id.len() >= MAX_WATCHERS {
            return Err(FsError::ResourceExhausted(format!(
                "there are {MAX_WATCHERS} watchers already: remove some"
            )));
        }
        let watcher = Arc::new(watcher);
        let collecting = tokio::spawn(Arc::clone(&watcher).collect_until_failure()).abort_handle();
        by_id.insert(id.clone(), Collected { watcher, collecting, asked: Instant::now() });
        Ok(id)
    }

    /// The changes since the last time.
    ///
    /// # Errors
    ///
    /// When there is no such watcher, or it has failed.
    pub(crate) async fn take(&self, id: &str) -> Result<VecDeque<Event>, FsError> {
        let watcher = self.by_id().get_mut(id).map(|collected| {
            collected.asked = Instant::now();
            Arc::clone(&collected.watcher)
        });
        watcher.ok_or_else(|| unknown(id))?.take().await
    }

    /// Ends a watcher.
    ///
    /// # Errors
    ///
    /// When there is no such watcher.
    pub(crate) fn remove(&self, id: &str) -> Result<(), FsError> {
        self.by_id().remove(id).map(drop).ok_or_else(|| unknown(id))
    }

    fn by_id(&self) -> MutexGuard<'_, HashMap<String, Collected>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown(id: &str) -> FsError {
    FsError::NotFound(format!("watcher with id {id} not found"))
}

/// `w` and 20 letters and digits, straight from the kernel: a copy of this process (after a resume) must not draw the
/// same ones.
fn random_id() -> Result<String, FsError> {
    let mut id = String::with_capacity(1 + ID_LENGTH);
    id.push('w');
    // 252 is the largest multiple of 36 that fits a byte: the bytes above would favour some letters.
    const USABLE: u8 = 252;
    while id.len() < 1 + ID_LENGTH {
        let mut bytes = [0_u8; 32];
        rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| FsError::Internal(format!("no randomness: {error}")))?;
        let letters = bytes.iter().filter(|byte| **byte < USABLE);
        id.extend(
            letters
                .map(|byte| char::from(ID_ALPHABET[usize::from(*byte) % ID_ALPHABET.len()]))
                .take(1 + ID_LENGTH - id.len()),
        );
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::super::watcher::WatchOptions;
    use super::*;

    #[test]
    fn ids_look_like_ids_and_differ() {
        let first = random_id().unwrap();
        assert_eq!(first.len(), 21);
        assert!(first.starts_with('w') && first[1..].bytes().all(|byte| ID_ALPHABET.contains(&byte)));
        assert_ne!(first, random_id().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_nobody_asks_make_room_for_others() {
        let directory = tempfile::tempdir().unwrap();
        let watcher = || Watcher::new(directory.path().to_owned(), WatchOptions::default());
        let watchers = Watchers::default();
        let forgotten = watchers.add(watcher().await.unwrap()).unwrap();
        let asked = watchers.add(watcher().await.unwrap()).unwrap();
        tokio::time::advance(FORGOTTEN / 2).await;
        watchers.take(&asked).await.unwrap();
        tokio::time::advance(FORGOTTEN / 2).await;
        // Until somebody needs the room, it can still be asked.
        assert_eq!(watchers.by_id().len(), 2);
        let new = watchers.add(watcher().await.unwrap()).unwrap();
        assert!(matches!(watchers.take(&forgotten).await, Err(FsError::NotFound(_))));
        watchers.take(&asked).await.unwrap();
        watchers.take(&new).await.unwrap();
    }
}
