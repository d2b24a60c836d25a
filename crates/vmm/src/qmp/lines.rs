//! The messages that QEMU sends, one to a line.

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::OwnedReadHalf;

use super::QmpError;

/// The longest message that is read, in bytes. QEMU's longest are descriptions of itself, which we never ask for.
const MAX_MESSAGE: u64 = 1 << 20;

/// Everything QEMU sends. Which of the fields are there says what it is.
#[derive(Debug, Deserialize)]
pub(super) struct Message {
    #[serde(rename = "QMP")]
    pub(super) greeting: Option<Value>,
    pub(super) event: Option<String>,
    pub(super) data: Option<Value>,
    #[serde(rename = "return")]
    pub(super) value: Option<Value>,
    pub(super) error: Option<ErrorBody>,
    pub(super) id: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ErrorBody {
    pub(super) class: String,
    pub(super) desc: String,
}

/// Words of QEMU that go into our messages: bounded, and nothing a terminal obeys.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

pub(super) struct Lines {
    reader: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

impl Lines {
    pub(super) fn new(reader: OwnedReadHalf) -> Self {
        Self { reader: BufReader::with_capacity(2048, reader), line: Vec::new() }
    }

    pub(super) async fn next(&mut self) -> Result<Message, QmpError> {
        self.line.clear();
        read_line(&mut self.reader, &mut self.line).await?;
        let message =
            serde_json::from_slice(&self.line).map_err(|error| QmpError::Protocol(error.to_string()));
        self.line.shrink_to(4096);
        message
    }
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<(), QmpError> {
    reader.take(MAX_MESSAGE).read_until(b'\n', line).await?;
    match line.last() {
        Some(b'\n') => Ok(()),
        None => Err(QmpError::Closed),
        Some(_) if line.len() as u64 == MAX_MESSAGE => {
            Err(QmpError::Protocol(format!("a message longer than {MAX_MESSAGE} bytes")))
        }
        Some(_) => Err(QmpError::Closed),
    }
}
