//! A watched directory and the queue of its changes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sys::readable::readable;
use tokio::io::unix::AsyncFd;

use super::event::{Change, Event};
use super::mount::is_network;
use super::tree::{PathChange, Rest, Tree, WatchError};
use crate::filesystem::blocking::blocking;
use crate::filesystem::entry::Entry;
use crate::filesystem::error::FsError;
use crate::filesystem::names::Names;

/// Most changes kept for a client that does not fetch them. At some hundred bytes each, a few megabytes.
const MAX_QUEUED: usize = 32_768;

/// How often a polling client's question reads on while the guest makes changes faster than they are read.
const MAX_ROUNDS: usize = 4;

/// What a client wants to hear.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WatchOptions {
    /// Everything below, too.
    pub(crate) recursive: bool,
    /// The entry with each change.
    pub(crate) include_entry: bool,
    /// Even where changes made elsewhere go unnoticed.
    pub(crate) allow_network_mounts: bool,
}

/// A watched directory. Watching ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Watcher {
    root: PathBuf,
    include_entry: bool,
    readable: AsyncFd<Arc<OwnedFd>>,
    /// Whether the kernel's queue may hold something although the descriptor is not known to be readable.
    behind: AtomicBool,
    /// Held while the kernel's queue is read, on the blocking pool only.
    tree: Mutex<Tree>,
    /// Held for moments.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    failure: Option<WatchError>,
}

impl Watcher {
    /// Watches a directory.
    ///
    /// # Errors
    ///
    /// When it is not a directory, is on a network file system without permission for that, or cannot be watched.
    pub(crate) async fn new(root: PathBuf, options: WatchOptions) -> Result<Self, FsError> {
        let path = root.clone();
        let tree = blocking(move || {
            check(&path, options.allow_network_mounts)?;
            Tree::new(path, options.recursive).map_err(FsError::from)
        })
        .await?;
        let readable = readable(tree.descriptor())
            .map_err(|error| FsError::Internal(format!("cannot wait for changes: {error}")))?;
        Ok(Self {
            root,
            include_entry: options.include_entry,
            readable,
            behind: AtomicBool::new(false),
            tree: Mutex::new(tree),
            queue: Mutex::new(Queue::default()),
        })
    }

    /// Waits for changes and takes them, at least one. Loses nothing when it is dropped half way.
    ///
    /// # Errors
    ///
    /// When changes were lost or cannot be watched any longer. The changes before that come first.
    pub(super) async fn next(self: &Arc<Self>) -> Result<VecDeque<Event>, FsError> {
        loop {
            {
                let mut queue = self.queue();
                if !queue.events.is_empty() {
                    return Ok(std::mem::take(&mut queue.events));
                }
                if let Some(failure) = &queue.failure {
                    return Err(failure.clone().into());
                }
            }
            self.collect().await;
        }
    }

    /// Takes everything that has happened until now.
    ///
    /// # Errors
    ///
    /// When changes were lost or cannot be watched any longer, now and ever after.
    pub(super) async fn take(self: &Arc<Self>) -> Result<VecDeque<Event>, FsError> {
        let mut events = VecDeque::new();
        for _ in 0..MAX_ROUNDS {
            let rest = self.read().await;
            let mut queue = self.queue();
            if let Some(failure) = &queue.failure {
                return Err(failure.clone().into());
            }
            events.append(&mut queue.events);
            if rest == Rest::Nothing {
                break;
            }
        }
        Ok(events)
    }

    /// Collects changes until there can be no more of them.
    pub(super) async fn collect_until_failure(self: Arc<Self>) {
        while self.queue().failure.is_none() {
            self.collect().await;
        }
        // All that its client will hear is the failure.
        self.queue().events = VecDeque::new();
    }

    /// Waits until something happens and reads it into the queue.
    async fn collect(self: &Arc<Self>) {
        if !self.behind.load(Ordering::Acquire) {
            match self.readable.readable().await {
                // Forgotten before reading: what happens afterwards makes it readable again.
                Ok(mut ready) => ready.clear_ready(),
                Err(error) => {
                    self.fail(WatchError::Failed { path: self.root.clone(), reason: error.to_string() });
                    return;
                }
            }
        }
        self.behind.store(true, Ordering::Release);
        self.read().await;
    }

    /// Reads from the kernel into the queue.
    async fn read(self: &Arc<Self>) -> Rest {
        let this = Arc::clone(self);
        blocking(move || this.read_blocking()).await
    }

    fn read_blocking(&self) -> Rest {
        let mut tree = self.tree.lock().unwrap_or_else(PoisonError::into_inner);
        if self.queue().failure.is_some() {
            return Rest::Nothing;
        }
        let mut changes = Vec::new();
        let outcome = tree.read(&mut changes);
        if matches!(outcome, Ok(Rest::Nothing)) {
            self.behind.store(false, Ordering::Release);
        }
        let events = self.describe(changes);
        // Queued before another call may read on: the order is the kernel's.
        self.queue().extend(events);
        match outcome {
            Ok(rest) => rest,
            Err(error) => {
                self.fail(error);
                Rest::Nothing
            }
        }
    }

    fn describe(&self, changes: Vec<PathChange>) -> Vec<Event> {
        let names = if self.include_entry && !changes.is_empty() { Names::load() } else { Names::default() };
        changes
            .into_iter()
            .map(|(path, change)| {
                let is_root = path.as_os_str().is_empty();
                let gone = matches!(change, Change::Remove | Change::Rename);
                let entry = (self.include_entry && !gone)
                    .then(|| if is_root { self.root.clone() } else { self.root.join(&path) })
                    .and_then(|path| Entry::read(&path, &names).ok());
                let name = if is_root { ".".to_owned() } else { path.to_string_lossy().into_owned() };
                Event { name, change, entry }
            })
            .collect()
    }

    fn fail(&self, error: WatchError) {
        self.queue().failure.get_or_insert(error);
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn extend(&mut self, events: Vec<Event>) {
        for event in events {
            // Like the kernel's queue: another write to what was just written says nothing new.
            if let Some(last) = self.events.back_mut()
                && event.change == Change::Write
                && last.change == Change::Write
                && last.name == event.name
            {
                *last = event;
                continue;
            }
            if self.events.len() == MAX_QUEUED {
                self.failure.get_or_insert(WatchError::Lost);
                return;
            }
            self.events.push_back(event);
        }
    }
}

fn check(root: &Path, allow_network_mounts: bool) -> Result<(), FsError> {
    let failed = |error: io::Error| FsError::of("watch", root, &error);
    if !std::fs::metadata(root).map_err(failed)?.is_dir() {
        return Err(FsError::InvalidArgument(format!("path is not a directory: {}", root.display())));
    }
    if !allow_network_mounts && is_network(root).map_err(failed)? {
        return Err(FsError::InvalidArgument(format!(
            "cannot watch path on network filesystem: {}: changes made elsewhere would go unnoticed; allow network \
             mounts to watch it all the same",
            root.display()
        )));
    }
    Ok(())
}

impl From<WatchError> for FsError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::TooManyDirectories | WatchError::TooManyWatchers => {
                Self::ResourceExhausted(error.to_string())
            }
            WatchError::Lost | WatchError::Failed { .. } => Self::Internal(error.to_string()),
        }
    }
}
