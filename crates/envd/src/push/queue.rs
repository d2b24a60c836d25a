//! Log lines that wait to be sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::{LogEntry, LogLevel, LogSource};
use tokio::sync::Notify;

/// Most bytes that wait: as they will be sent, so this is also the size of the largest batch.
const MAX_BYTES: usize = 512 << 10;

/// Log lines that wait to be sent.
#[derive(Debug)]
pub(crate) struct LogQueue {
    /// Whether there is anybody to send them to.
    enabled: bool,
    /// Whether the daemon's own lines appear on its standard error as well.
    echo: bool,
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// One JSON object a line.
    body: Vec<u8>,
    lines: u64,
    dropped: u64,
}

/// What is sent at once.
#[derive(Debug)]
pub(crate) struct Batch {
    /// One JSON object a line.
    pub(crate) body: Vec<u8>,
    /// How many.
    pub(crate) lines: u64,
}

impl LogQueue {
    /// An empty queue; one that is not enabled stays empty.
    pub(crate) fn new(enabled: bool, echo: bool) -> Self {
        Self { enabled, echo, waiting: Mutex::default(), filled: Notify::new() }
    }

    /// Whether it is worth making entries at all.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// Whether an entry would be dropped. Whoever has many can save the work of making them.
    pub(crate) fn is_full(&self) -> bool {
        self.lock().body.len() >= MAX_BYTES
    }

    /// Adds an entry, or drops it when there is no room.
    pub(crate) fn push(&self, entry: &LogEntry) {
        if !self.enabled {
            return;
        }
        let mut waiting = self.lock();
        if waiting.body.len() >= MAX_BYTES {
            waiting.dropped += 1;
            return;
        }
        waiting.add(entry);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Adds a line of the daemon's own.
    pub(crate) fn say(&self, level: LogLevel, message: String) {
        if self.echo {
            eprintln!("envd: {}: {message}", level.as_str());
        }
        self.push(&own(level, message));
    }

    /// Counts lines that were lost elsewhere.
    pub(crate) fn count_dropped(&self, lines: u64) {
        self.lock().dropped += lines;
    }

    /// Waits until there are lines, and takes all of them.
    pub(crate) async fn next_batch(&self) -> Batch {
        loop {
            // Asked for before looking, so that a line that comes in between is not missed.
            let filled = self.filled.notified();
            if let Some(batch) = self.take() {
                return batch;
            }
            filled.await;
        }
    }

    fn take(&self) -> Option<Batch> {
        let mut waiting = self.lock();
        if waiting.body.is_empty() {
            return None;
        }
        let dropped = std::mem::take(&mut waiting.dropped);
        if dropped > 0 {
            waiting.add(&own(LogLevel::Warn, format!("{dropped} log lines were dropped: too many at once")));
        }
        let waiting = std::mem::take(&mut *waiting);
        Some(Batch { body: waiting.body, lines: waiting.lines })
    }

    /// The fields agree with each other between any two statements, so those behind a poisoned lock do, too.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn add(&mut self, entry: &LogEntry) {
        // Writing to memory does not fail, and an entry has nothing that JSON cannot say.
        if serde_json::to_writer(&mut self.body, entry).is_ok() {
            self.body.push(b'\n');
            self.lines += 1;
        }
    }
}

fn own(level: LogLevel, message: String) -> LogEntry {
    LogEntry {
        timestamp: jiff::Timestamp::now(),
        level,
        source: LogSource::Envd,
        message,
        fields: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(batch: &Batch) -> Vec<LogEntry> {
        let text = std::str::from_utf8(&batch.body).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_does_not_fit_is_counted() {
        let queue = LogQueue::new(true, false);
        let line = "x".repeat(1000);
        for _ in 0..1000 {
            queue.say(LogLevel::Info, line.clone());
        }
        assert!(queue.is_full());
        let batch = queue.next_batch().await;
        let entries = entries(&batch);
        let (last, rest) = entries.split_last().unwrap();
        assert_eq!(batch.lines, entries.len() as u64);
        assert_eq!(last.message, format!("{} log lines were dropped: too many at once", 1000 - rest.len()));
        assert!(rest.iter().all(|entry| entry.message == line));
        assert!(!queue.is_full());
    }

    #[tokio::test]
    async fn a_batch_comes_as_soon_as_there_is_a_line() {
        let queue = LogQueue::new(true, false);
        let (batch, ()) = tokio::join!(queue.next_batch(), async {
            tokio::task::yield_now().await;
            queue.say(LogLevel::Error, "late".into());
        });
        assert_eq!(entries(&batch)[0].message, "late");
    }

    #[test]
    fn nobody_to_send_to_means_no_queue() {
        let queue = LogQueue::new(false, false);
        queue.say(LogLevel::Info, "x".into());
        assert!(queue.take().is_none());
    }
}
