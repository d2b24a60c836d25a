//! What a process of the guest daemon says: the messages of a Connect stream.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

/// Flags and length in front of each message.
const HEAD_BYTES: usize = 5;
/// The flag of the message after which there is none.
const LAST: u8 = 2;

/// The stream of a process that was started.
pub(super) struct Events {
    body: Incoming,
    received: BytesMut,
}

/// One message.
pub(super) enum Event {
    /// It runs.
    Started(u64),
    /// What it printed.
    Output(Bytes),
    /// It ended, with this code.
    Ended(i64),
    /// Nothing of interest here.
    Other,
}

impl Events {
    pub(super) fn of(body: Incoming) -> Self {
        Self { body, received: BytesMut::new() }
    }

    /// The next message; `None` after the last. Fails when the stream does, or ends without having been finished.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, String> {
        loop {
            if let Some((flags, message)) = self.take() {
                let message: Value = serde_json::from_slice(&message).map_err(|error| error.to_string())?;
                return match (flags & LAST != 0, message.get("error")) {
                    (false, _) => event(&message).map(Some),
                    (true, None) => Ok(None),
                    (true, Some(error)) => Err(error.to_string()),
                };
            }
            let frame = self.body.frame().await.ok_or("the stream ended before its last message")?;
            let data = frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default();
            self.received.extend_from_slice(&data);
        }
    }

    /// A message that is here as a whole.
    fn take(&mut self) -> Option<(u8, Bytes)> {
        let head: &[u8; HEAD_BYTES] = self.received.first_chunk()?;
        let [flags, length @ ..] = *head;
        let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
        if self.received.len() < HEAD_BYTES + length {
            return None;
        }
        self.received.advance(HEAD_BYTES);
        Some((flags, self.received.split_to(length).freeze()))
    }
}

fn event(message: &Value) -> Result<Event, String> {
    let event = &message["event"];
    if let Some(pid) = event["start"]["pid"].as_u64() {
        return Ok(Event::Started(pid));
    }
    if let Some(output) = event["data"]["stdout"].as_str() {
        let bytes = BASE64_STANDARD.decode(output).map_err(|error| error.to_string())?;
        return Ok(Event::Output(bytes.into()));
    }
    Ok(match event.get("end") {
        // A code of zero is not sent.
        Some(end) => Event::Ended(end["exitCode"].as_i64().unwrap_or(0)),
        None => Event::Other,
    })
}
