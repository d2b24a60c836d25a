//! A watched directory, with everything below it when asked for.
//!
//! inotify watches single directories. Watching a tree means to add a watch for each directory that appears, and between
//! its appearance and our watch things happen unseen: after `mkdir -p a/b/c` we hear of `a` only. So a new directory is
//! watched first and read afterwards, and what is found in it is announced as created, all the way down. What was
//! created between the two is seen twice, once there and once in the kernel's queue; `announced` remembers it, and the
//! second time is dropped. Everything that can be double is in the queue by the time the scan ends, so once the queue
//! has run empty there is nothing left to remember.
//!
//! A directory that is renamed inside the tree keeps its watches: the two halves of a rename carry the same number, and
//! the paths of the watches are rewritten. It is read once more then, because what we were told about it before named
//! paths that did not exist any more when we looked. One that leaves the tree is not heard of again, which the kernel
//! cannot tell us; when the second half does not come, its watches are removed.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use rustix::io::Errno;
use thiserror::Error;

use super::event::{Change, WATCHED, changes};

/// Bytes read from the kernel at once: some thousand events.
const READ_BUFFER: usize = 64 << 10;

/// Most changes reported by one call; the caller comes back for more.
const MAX_CHANGES: usize = 8192;

/// How long the second half of a rename may be behind the first. The kernel queues them one right after the other, but
/// whoever renames can lose the processor in between.
const RENAME_GRACE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Why a directory cannot be watched, or not any longer.
#[derive(Debug, Clone, Error)]
pub(crate) enum WatchError {
    /// Events were lost.
    #[error("changes came faster than they were read and some were lost: watch again")]
    Lost,
    /// The kernel's limit on watches.
    #[error("the kernel's limit of watched directories is reached (fs.inotify.max_user_watches)")]
    TooManyDirectories,
    /// The kernel's limit on watchers.
    #[error("the kernel's limit of watchers is reached (fs.inotify.max_user_instances)")]
    TooManyWatchers,
    /// Anything else.
    #[error("cannot watch '{path}': {reason}")]
    Failed {
        /// Where.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl WatchError {
    fn of(path: &Path, error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC) => Self::TooManyDirectories,
            Some(Errno::MFILE | Errno::NFILE) => Self::TooManyWatchers,
            _ => Self::Failed { path: path.to_owned(), reason: error.to_string() },
        }
    }
}

/// A change of a path relative to the root; an empty path is the root.
pub(super) type PathChange = (PathBuf, Change);

/// What a call of [`Tree::read`] leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// Nothing: whatever happens from now on makes the descriptor readable.
    Nothing,
    /// There may be more to read right now.
    Maybe,
}

/// Whose contents are told as created when directories are adopted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announce {
    /// Nobody's: the client asks for changes from now on.
    Nothing,
    /// Those of directories that were not watched until now.
    Unwatched,
    /// All.
    Everything,
}

/// A directory that was moved away, perhaps to another place in the tree.
#[derive(Debug)]
struct Departed {
    cookie: u32,
    path: PathBuf,
}

/// A watched directory or tree.
#[derive(Debug)]
pub(super) struct Tree {
    inotify: Arc<OwnedFd>,
    root: PathBuf,
    recursive: bool,
    /// Paths relative to the root, by watch.
    directories: HashMap<i32, PathBuf>,
    announced: HashSet<(i32, OsString)>,
    /// Watches whose paths were looked up while the queue was not empty: they are newer than what the queue says.
    placed: HashSet<i32>,
    departed: Vec<Departed>,
}

impl Tree {
    /// Watches a directory. Links are followed for `root` only. Blocks while it walks the tree.
    ///
    /// # Errors
    ///
    /// When `root` cannot be watched, or the kernel's limits are reached.
    pub(super) fn new(root: PathBuf, recursive: bool) -> Result<Self, WatchError> {
        let inotify = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|error| WatchError::of(&root, &error.into()))?;
        let mut tree = Self {
            inotify: Arc::new(inotify),
            root,
            recursive,
            directories: HashMap::new(),
            announced: HashSet::new(),
            placed: HashSet::new(),
            departed: Vec::new(),
        };
        let watch = add_watch(&tree.inotify, &tree.root, WATCHED | WatchFlags::ONLYDIR)
            .map_err(|error| WatchError::of(&tree.root, &error.into()))?;
        tree.directories.insert(watch, PathBuf::new());
        if recursive {
            let below = tree.subdirectories(Path::new(""));
            tree.adopt(below, Announce::Nothing, &mut Vec::new())?;
        }
        Ok(tree)
    }

    /// The descriptor that becomes readable when something happens.
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.inotify)
    }

    /// Reads what the kernel has to say and appends it to `out`. Blocks while it walks new directories.
    ///
    /// # Errors
    ///
    /// When events were lost or a new directory cannot be watched. The tree is of no use afterwards.
    pub(super) fn read(&mut self, out: &mut Vec<PathChange>) -> Result<Rest, WatchError> {
        let inotify = self.descriptor();
        let mut buffer = vec![MaybeUninit::uninit(); READ_BUFFER];
        let mut reader = Reader::new(&*inotify, &mut buffer);
        loop {
            if out.len() >= MAX_CHANGES && reader.is_buffer_empty() {
                return Ok(Rest::Maybe);
            }
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()).to_owned());
                    let (watch, flags, cookie) = (event.wd(), event.events(), event.cookie());
                    self.take(watch, flags, cookie, name, out)?;
                }
                Err(Errno::AGAIN) if !self.departed.is_empty() && second_half_is_coming(&inotify) => {}
                Err(Errno::AGAIN) => {
                    self.announced.clear();
                    self.placed.clear();
                    self.forget_departed();
                    return Ok(Rest::Nothing);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(WatchError::of(&self.root, &error.into())),
            }
        }
    }

    /// One event of the kernel.
    fn take(
        &mut self,
        watch: i32,
        flags: ReadFlags,
        cookie: u32,
        name: Option<OsString>,
        out: &mut Vec<PathChange>,
    ) -> Result<(), WatchError> {
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(WatchError::Lost);
        }
        if flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&watch);
            return Ok(());
        }
        // A directory that has left the tree may have had something to say before.
        let Some(directory) = self.directories.get(&watch) else { return Ok(()) };
        let Some(name) = name else {
            // About the directory itself. Its parent says the same, except for the root, whose parent is not watched.
            if directory.as_os_str().is_empty() {
                out.extend(changes(flags).map(|change| (PathBuf::new(), change)));
            }
            return Ok(());
        };
        let path = directory.join(&name);
        let appears = flags.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
        let leaves = flags.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        let known = (appears || leaves) && self.announced.remove(&(watch, name));
        if !(known && appears) {
            out.extend(changes(flags).map(|change| (path.clone(), change)));
        }
        if !self.recursive || !flags.contains(ReadFlags::ISDIR) {
            return Ok(());
        }
        if flags.contains(ReadFlags::DELETE) {
            self.forget_announced(&path);
        } else if flags.contains(ReadFlags::MOVED_FROM) {
            self.departed.push(Departed { cookie, path });
        } else if flags.contains(ReadFlags::MOVED_TO)
            && let Some(index) = self.departed.iter().position(|departed| departed.cookie == cookie)
        {
            let departed = self.departed.swap_remove(index);
            self.rewrite(&departed.path, &path);
            self.adopt(vec![path], Announce::Unwatched, out)?;
        } else if appears && !known {
            self.adopt(vec![path], Announce::Everything, out)?;
        }
        Ok(())
    }

    /// Watches directories and everything below them, and tells what is in them. Those that vanish meanwhile, or turn out
    /// to be no directories, are left out.
    fn adopt(
        &mut self,
        mut pending: Vec<PathBuf>,
        announce: Announce,
        out: &mut Vec<PathChange>,
    ) -> Result<(), WatchError> {
        while let Some(directory) = pending.pop() {
            let absolute = self.root.join(&directory);
            let flags = WATCHED | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
            let watch = match add_watch(&self.inotify, &absolute, flags) {
                Ok(watch) => watch,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG) => continue,
                Err(error) => return Err(WatchError::of(&absolute, &error.into())),
            };
            self.placed.insert(watch);
            let was_watched = self.directories.insert(watch, directory.clone()).is_some();
            if announce == Announce::Nothing || (announce == Announce::Unwatched && was_watched) {
                pending.extend(self.subdirectories(&directory));
                continue;
            }
            for (name, is_directory) in entries(&absolute) {
                let path = directory.join(&name);
                if is_directory {
                    pending.push(path.clone());
                }
                // What has been announced and is still here needs no second announcement.
                if self.announced.insert((watch, name)) {
                    out.push((path, Change::Create));
                }
            }
        }
        Ok(())
    }

    fn subdirectories(&self, directory: &Path) -> Vec<PathBuf> {
        entries(&self.root.join(directory))
            .filter(|(_, is_directory)| *is_directory)
            .map(|(name, _)| directory.join(name))
            .collect()
    }

    /// Gives the watches below one path another path. Two directories that change places are both below one path for a
    /// moment; what has been placed already stays.
    fn rewrite(&mut self, from: &Path, to: &Path) {
        for (watch, path) in &mut self.directories {
            if !self.placed.contains(watch)
                && let Ok(below) = path.strip_prefix(from)
            {
                *path = if below.as_os_str().is_empty() { to.to_owned() } else { to.join(below) };
            }
        }
    }

    /// A removed directory takes along what was announced in it: should it be made again, clients hear of that again.
    fn forget_announced(&mut self, removed: &Path) {
        let directories = &self.directories;
        self.announced
            .retain(|(watch, _)| directories.get(watch).is_some_and(|path| !path.starts_with(removed)));
    }

    /// Removes the watches of directories that left the tree.
    fn forget_departed(&mut self) {
        for departed in std::mem::take(&mut self.departed) {
            let left: Vec<i32> = self
                .directories
                .iter()
                .filter(|(_, path)| path.starts_with(&departed.path))
                .map(|(watch, _)| *watch)
                .collect();
            for watch in left {
                self.directories.remove(&watch);
                // It may be gone already, with the directory.
                let _ = remove_watch(&self.inotify, watch);
            }
        }
    }
}

/// The names in a directory, and which of them are directories themselves. One that cannot be read has none.
fn entries(directory: &Path) -> impl Iterator<Item = (OsString, bool)> {
    std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (entry.file_name(), entry.file_type().is_ok_and(|kind| kind.is_dir())))
}

fn second_half_is_coming(inotify: &OwnedFd) -> bool {
    let mut descriptors = [PollFd::new(inotify, PollFlags::IN)];
    poll(&mut descriptors, Some(&RENAME_GRACE)).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests;
