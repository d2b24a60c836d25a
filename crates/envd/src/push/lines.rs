//! Cuts output into log lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memrchr};
use model::{LogEntry, LogLevel, LogSource};

use super::LogQueue;

/// Longest line in bytes; the rest of it is left out.
const MAX_LINE: usize = 8 << 10;
/// Longest command to name in each line, in bytes.
const MAX_COMMAND: usize = 256;

/// Cuts one output of a process into log lines.
#[derive(Debug)]
pub(crate) struct LineLog {
    queue: Arc<LogQueue>,
    fields: BTreeMap<String, String>,
    /// The beginning of a line whose end has not come yet, at most [`MAX_LINE`] bytes.
    partial: Vec<u8>,
    /// Whether the rest of the line is to be left out.
    skipping: bool,
}

impl LineLog {
    /// The log for an output (`stdout`, `stderr`, `pty`) of the process with this id and command.
    pub(crate) fn new(queue: Arc<LogQueue>, pid: u32, stream: &str, command: &str) -> Self {
        let mut end = command.len().min(MAX_COMMAND);
        while !command.is_char_boundary(end) {
            end -= 1;
        }
        let fields = BTreeMap::from([
            ("pid".to_owned(), pid.to_string()),
            ("stream".to_owned(), stream.to_owned()),
            ("cmd".to_owned(), command[..end].to_owned()),
        ]);
        Self { queue, fields, partial: Vec::new(), skipping: false }
    }

    /// Takes a piece of output.
    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        if !self.queue.is_enabled() {
            return;
        }
        while let Some(end) = memchr(b'\n', data) {
            if self.queue.is_full() {
                // No need to make lines that would be dropped; but where the last one begins matters.
                return self.drop_lines(data);
            }
            self.extend(&data[..end]);
            self.emit();
            data = &data[end + 1..];
        }
        self.extend(data);
    }

    /// Takes the end of the output: a last line may have no line end.
    pub(crate) fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.emit();
        }
    }

    fn drop_lines(&mut self, data: &[u8]) {
        let lines = memchr_iter(b'\n', data).count();
        self.queue.count_dropped(lines as u64);
        self.partial.clear();
        self.skipping = false;
        let last = memrchr(b'\n', data).map_or(0, |end| end + 1);
        self.extend(&data[last..]);
    }

    fn extend(&mut self, part: &[u8]) {
        if self.skipping {
            return;
        }
        let room = MAX_LINE - self.partial.len();
        self.partial.extend_from_slice(&part[..part.len().min(room)]);
        self.skipping = part.len() > room;
    }

    fn emit(&mut self) {
        let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        self.queue.push(&LogEntry {
            timestamp: jiff::Timestamp::now(),
            level: LogLevel::Info,
            source: LogSource::Process,
            message: String::from_utf8_lossy(line).into_owned(),
            fields: self.fields.clone(),
        });
        self.partial.clear();
        self.skipping = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn messages(queue: &LogQueue) -> Vec<String> {
        let batch = queue.next_batch().await;
        let text = String::from_utf8(batch.body).unwrap();
        let entry = |line| serde_json::from_str::<LogEntry>(line).unwrap();
        let entries: Vec<_> = text.lines().map(entry).collect();
        assert!(entries.iter().all(|entry| entry.source == LogSource::Envd || entry.fields["pid"] == "7"));
        entries.into_iter().map(|entry| entry.message).collect()
    }

    #[tokio::test]
    async fn lines_are_put_together_and_cut() {
        let queue = Arc::new(LogQueue::new(true, false));
        let mut log = LineLog::new(Arc::clone(&queue), 7, "stdout", "echo");
        let long = "y".repeat(MAX_LINE + 5);
        for piece in ["a", "b\r\nc\n\n", &long, "more\nlast \u{fc}"] {
            log.feed(piece.as_bytes());
        }
        log.finish();
        log.finish();
        assert_eq!(messages(&queue).await, ["ab", "c", "", &long[..MAX_LINE], "last \u{fc}"]);
    }

    #[tokio::test]
    async fn a_full_queue_costs_lines_and_nothing_else() {
        let queue = Arc::new(LogQueue::new(true, false));
        let mut log = LineLog::new(Arc::clone(&queue), 7, "stdout", "yes");
        let piece = "0123456789\n".repeat(6000);
        for _ in 0..10 {
            log.feed(piece.as_bytes());
        }
        log.feed(b"the end");
        let first = messages(&queue).await;
        assert!(first.last().unwrap().contains("were dropped"), "{:?}", first.last());
        log.feed(b"\n");
        assert_eq!(messages(&queue).await, ["the end"]);
    }

    #[test]
    fn a_long_command_is_cut_between_characters() {
        let queue = Arc::new(LogQueue::new(true, false));
        let log = LineLog::new(queue, 7, "stdout", &format!("{}\u{fc}", "x".repeat(MAX_COMMAND - 1)));
        assert_eq!(log.fields["cmd"].len(), MAX_COMMAND - 1);
    }
}
