//! The guest's serial console, a line at a time, into the log.

use std::rc::Rc;

use model::{LogEntry, LogLevel, LogSource};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use crate::log_store::LogStore;

/// A guest that never ends a line has it ended here.
const MAX_LINE_BYTES: usize = 4096;

/// Reads until the VMM closes its end.
pub(crate) async fn run(mut console: UnixStream, logs: Rc<LogStore>) {
    let mut line = Vec::new();
    let mut chunk = [0_u8; 4096];
    while let Ok(read @ 1..) = console.read(&mut chunk).await {
        for &byte in &chunk[..read] {
            if byte != b'\n' {
                line.push(byte);
            }
            if byte == b'\n' || line.len() == MAX_LINE_BYTES {
                log_line(&line, &logs);
                line.clear();
            }
        }
    }
    log_line(&line, &logs);
}

fn log_line(line: &[u8], logs: &LogStore) {
    let text = String::from_utf8_lossy(line);
    // Control characters would let a guest write to the terminal of whoever reads its log.
    let message: String = text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').collect();
    if message.is_empty() {
        return;
    }
    logs.append(&LogEntry {
        timestamp: jiff::Timestamp::now(),
        level: LogLevel::Info,
        source: LogSource::Console,
        message,
        fields: std::collections::BTreeMap::default(),
    });
}
