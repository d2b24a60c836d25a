//! Our records as messages of the protocol.

use envd_proto::filesystem::{EntryInfo, EventType, FileType, FilesystemEvent};

use super::entry::{Entry, EntryKind};
use super::watch::{Change, Event};

impl From<Entry> for EntryInfo {
    fn from(entry: Entry) -> Self {
        let mut info = Self {
            name: entry.name,
            r#type: match entry.kind {
                EntryKind::File => FileType::FILE_TYPE_FILE,
                EntryKind::Directory => FileType::FILE_TYPE_DIRECTORY,
                EntryKind::Other => FileType::FILE_TYPE_UNSPECIFIED,
            }
            .into(),
            path: entry.path,
            size: i64::try_from(entry.size).unwrap_or(i64::MAX),
            mode: entry.mode,
            permissions: entry.permissions,
            owner: entry.owner,
            group: entry.group,
            is_symlink: entry.symlink_target.is_some(),
            symlink_target: entry.symlink_target,
            metadata: entry.metadata.into_iter().collect(),
            ..Self::default()
        };
        let (seconds, nanos) = entry.modified;
        let time = info.modified_time.get_or_insert_default();
        time.seconds = seconds.clamp(MIN_SECONDS, MAX_SECONDS);
        time.nanos = i32::try_from(nanos).unwrap_or_default();
        info
    }
}

/// The times that the protocol can express (google/protobuf/timestamp.proto): the years 1 to 9999. A file system can
/// hold others, and one odd file must not spoil a whole listing.
const MIN_SECONDS: i64 = -62_135_596_800;
const MAX_SECONDS: i64 = 253_402_300_799;

impl From<Event> for FilesystemEvent {
    fn from(event: Event) -> Self {
        Self {
            name: event.name,
            r#type: match event.change {
                Change::Create => EventType::EVENT_TYPE_CREATE,
                Change::Write => EventType::EVENT_TYPE_WRITE,
                Change::Remove => EventType::EVENT_TYPE_REMOVE,
                Change::Rename => EventType::EVENT_TYPE_RENAME,
                Change::Chmod => EventType::EVENT_TYPE_CHMOD,
            }
            .into(),
            entry: event.entry.map(EntryInfo::from).into(),
        }
    }
}
