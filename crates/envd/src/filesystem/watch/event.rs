//! Changes, and how the kernel's words for them are read.

use rustix::fs::inotify::{ReadFlags, WatchFlags};

use crate::filesystem::entry::Entry;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    /// It appeared, or was moved here.
    Create,
    /// It was moved away.
    Rename,
    /// Its permissions, owner or attributes changed.
    Chmod,
    /// Its contents changed.
    Write,
    /// It was removed.
    Remove,
}

/// A change of a path below a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Relative to the watched directory; `.` is the directory itself.
    pub(crate) name: String,
    /// What happened.
    pub(crate) change: Change,
    /// The entry after the change, when asked for and still there.
    pub(crate) entry: Option<Entry>,
}

/// What to ask the kernel for.
pub(super) const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// The changes in one word of the kernel, in the order in which clients hear of them.
pub(super) fn changes(flags: ReadFlags) -> impl Iterator<Item = Change> {
    [
        (ReadFlags::CREATE.union(ReadFlags::MOVED_TO), Change::Create),
        (ReadFlags::MOVED_FROM.union(ReadFlags::MOVE_SELF), Change::Rename),
        (ReadFlags::ATTRIB, Change::Chmod),
        (ReadFlags::MODIFY, Change::Write),
        (ReadFlags::DELETE.union(ReadFlags::DELETE_SELF), Change::Remove),
    ]
    .into_iter()
    .filter(move |(mask, _)| flags.intersects(*mask))
    .map(|(_, change)| change)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_changes() {
        let all = ReadFlags::DELETE_SELF | ReadFlags::MODIFY | ReadFlags::ATTRIB | ReadFlags::MOVED_TO;
        assert_eq!(
            changes(all).collect::<Vec<_>>(),
            [Change::Create, Change::Chmod, Change::Write, Change::Remove]
        );
        assert_eq!(changes(ReadFlags::MOVED_FROM | ReadFlags::ISDIR).collect::<Vec<_>>(), [Change::Rename]);
        assert_eq!(changes(ReadFlags::IGNORED).count(), 0);
    }
}
