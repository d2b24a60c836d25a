//! A sandbox's log: lines on disk, bounded.
//!
//! Two files of at most [`SEGMENT_BYTES`]: the newer one grows; when it is full it replaces the older one. So a chatty
//! guest keeps between one and two segments of its newest lines and never more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use control::LogFilter;
use model::{LogEntry, LogLevel, LogSource};

/// A segment holds about a minute of a guest that prints without pause, and hours of a normal one.
const SEGMENT_BYTES: u64 = 4 << 20;
/// Longer messages are cut here.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// A line on disk: the message, escaped, and its fields.
const MAX_LINE_BYTES: u64 = 512 << 10;
/// The most one query returns.
const MAX_LINES: usize = 10_000;

const NEWER: &str = "log.ndjson";
const OLDER: &str = "log.1.ndjson";

/// Appends and searches the log of one sandbox.
#[derive(Debug)]
pub(crate) struct LogStore {
    dir: PathBuf,
    segment: RefCell<Segment>,
    /// How many lines could not be written.
    lost: Cell<u64>,
}

#[derive(Debug)]
struct Segment {
    file: File,
    bytes: u64,
}

impl LogStore {
    pub(crate) fn create(dir: &Path) -> std::io::Result<Self> {
        let segment = RefCell::new(Segment::create(dir)?);
        Ok(Self { dir: dir.to_owned(), segment, lost: Cell::new(0) })
    }

    /// Adds a line. A full disk loses log lines, never the sandbox.
    pub(crate) fn append(&self, entry: &LogEntry) {
        if let Err(error) = self.try_append(entry) {
            // A guest can bring this about as often as it likes, and the supervisor's own log has no bound.
            let lost = self.lost.get().saturating_add(1);
            self.lost.set(lost);
            if lost.is_power_of_two() {
                tracing::warn!(%error, lost, "a log line was lost");
            }
        }
    }

    /// Adds a line of the supervisor's own.
    pub(crate) fn say(&self, level: LogLevel, message: impl Into<String>) {
        self.append(&LogEntry {
            timestamp: jiff::Timestamp::now(),
            level,
            source: LogSource::Supervisor,
            message: message.into(),
            fields: BTreeMap::default(),
        });
    }

    fn try_append(&self, entry: &LogEntry) -> std::io::Result<()> {
        let mut line = if entry.message.len() > MAX_MESSAGE_BYTES {
            let cut = entry.message.floor_char_boundary(MAX_MESSAGE_BYTES);
            serde_json::to_vec(&LogEntry { message: entry.message[..cut].to_owned(), ..entry.clone() })?
        } else {
            serde_json::to_vec(entry)?
        };
        line.push(b'\n');
        let size = line.len() as u64;
        if size > MAX_LINE_BYTES {
            return Err(std::io::Error::other(format!("a line of {size} bytes")));
        }
        let mut segment = self.segment.borrow_mut();
        if segment.bytes + size > SEGMENT_BYTES {
            std::fs::rename(self.dir.join(NEWER), self.dir.join(OLDER))?;
            *segment = Segment::create(&self.dir)?;
        }
        segment.file.write_all(&line)?;
        segment.bytes += size;
        Ok(())
    }

    /// Where the lines are, for a query on another thread.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Segment {
    fn create(dir: &Path) -> std::io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(dir.join(NEWER))?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes })
    }
}

/// The lines that the filter wants: the first ones of its direction, in the order of their times, oldest first unless it
/// asks backward. A guest's lines come in batches, so the order on disk is only nearly that of their times, and a client
/// that pages by time would miss the late ones. Reads both segments, a line at a time: memory is that of the answer.
pub(crate) fn query(dir: &Path, filter: &LogFilter) -> std::io::Result<Vec<LogEntry>> {
    let limit = filter.limit.unwrap_or(MAX_LINES).min(MAX_LINES);
    // Lines of the same time stay in the order they came in.
    let mut found = BTreeMap::new();
    let mut count = 0_u64;
    // The newer one first: when it becomes the older one in between, it is here twice, and no line is missed.
    let newer = open(&dir.join(NEWER))?;
    let older = open(&dir.join(OLDER))?;
    let same = match (&older, &newer) {
        (Some(older), Some(newer)) => older.metadata()?.ino() == newer.metadata()?.ino(),
        _ => false,
    };
    for file in [older, newer.filter(|_| !same)].into_iter().flatten() {
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            // The last line may be half written at this moment.
            let Ok(entry) = serde_json::from_slice::<LogEntry>(&line) else { continue };
            if !wanted(&entry, filter) {
                continue;
            }
            found.insert((entry.timestamp, count), entry);
            count += 1;
            if found.len() > limit {
                if filter.backward {
                    found.pop_first()
                } else {
                    found.pop_last()
                };
            }
        }
    }
    Ok(if filter.backward { found.into_values().rev().collect() } else { found.into_values().collect() })
}

fn open(path: &Path) -> std::io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn wanted(entry: &LogEntry, filter: &LogFilter) -> bool {
    filter.start.is_none_or(|start| entry.timestamp >= start)
        && filter.end.is_none_or(|end| entry.timestamp <= end)
        && filter.level.is_none_or(|level| entry.level >= level)
        && filter.search.as_ref().is_none_or(|text| entry.message.contains(text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(second: i64, message: &str) -> LogEntry {
        LogEntry {
            timestamp: jiff::Timestamp::from_second(second).unwrap(),
            level: LogLevel::Info,
            source: LogSource::Process,
            message: message.into(),
            fields: BTreeMap::default(),
        }
    }

    #[test]
    fn a_query_takes_the_first_lines_of_its_direction() {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::create(dir.path()).unwrap();
        for i in 0..10 {
            store.append(&entry(i, &format!("line {i}")));
        }
        let texts = |filter: LogFilter| -> Vec<String> {
            query(dir.path(), &filter).unwrap().into_iter().map(|entry| entry.message).collect()
        };
        assert_eq!(texts(LogFilter { limit: Some(2), ..Default::default() }), ["line 0", "line 1"]);
        let newest = LogFilter { limit: Some(2), backward: true, ..Default::default() };
        assert_eq!(texts(newest), ["line 9", "line 8"]);
        let from = LogFilter { start: jiff::Timestamp::from_second(8).ok(), ..Default::default() };
        assert_eq!(texts(from), ["line 8", "line 9"]);
        assert_eq!(texts(LogFilter { search: Some("7".into()), ..Default::default() }), ["line 7"]);
        assert!(texts(LogFilter { level: Some(LogLevel::Error), ..Default::default() }).is_empty());
    }

    #[test]
    fn late_lines_are_found_where_their_time_is() {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::create(dir.path()).unwrap();
        for (second, message) in [(3, "c"), (1, "a"), (2, "b1"), (2, "b2"), (4, "d")] {
            store.append(&entry(second, message));
        }
        let texts = |limit, backward| -> Vec<String> {
            let filter = LogFilter { limit: Some(limit), backward, ..Default::default() };
            query(dir.path(), &filter).unwrap().into_iter().map(|entry| entry.message).collect()
        };
        assert_eq!(texts(9, false), ["a", "b1", "b2", "c", "d"]);
        assert_eq!(texts(2, false), ["a", "b1"]);
        assert_eq!(texts(3, true), ["d", "c", "b2"]);
        assert!(texts(0, false).is_empty());
    }

    #[test]
    fn the_log_is_bounded_and_keeps_the_newest() {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::create(dir.path()).unwrap();
        let long = "x".repeat(2 * MAX_MESSAGE_BYTES);
        for i in 0..200 {
            store.append(&entry(i, &long));
        }
        let on_disk: u64 =
            [NEWER, OLDER].iter().map(|n| std::fs::metadata(dir.path().join(n)).unwrap().len()).sum();
        assert!(on_disk <= 2 * SEGMENT_BYTES, "{on_disk}");
        let newest =
            query(dir.path(), &LogFilter { limit: Some(1), backward: true, ..Default::default() }).unwrap();
        assert_eq!(newest[0].timestamp.as_second(), 199);
        assert_eq!(newest[0].message.len(), MAX_MESSAGE_BYTES);
    }
}
