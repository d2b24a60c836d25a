//! Watching directories.
//!
//! ```text
//! kernel (inotify) -> Tree: paths, new directories -> Watcher: a bounded queue -+-> WatchDir: a stream
//!                                                                                +-> Watchers: collected for polling
//! ```
//!
//! A [`Tree`](tree::Tree) turns what the kernel says about directories it knows into changes of paths, and gets to know
//! the directories that appear. A [`Watcher`] owns a tree and the queue of its changes. Nothing here has a thread of its
//! own: reading the kernel's queue and scanning new directories is done on the blocking pool when the descriptor is
//! readable, and, for polling clients, also right before an answer, so that an answer holds everything that happened
//! before the question.
//!
//! When events are lost (the kernel's queue or ours is full), the watcher fails for good and says so: a client that was
//! told everything but something is worse off than one that has to start again.

mod event;
mod mount;
mod registry;
mod stream;
mod tree;
mod watcher;

pub(crate) use event::{Change, Event};
pub(crate) use registry::Watchers;
pub(crate) use stream::stream;
pub(crate) use watcher::{WatchOptions, Watcher};
