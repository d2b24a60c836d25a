//! A process in a guest, as its daemon shows it: what it prints, and how it ends.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::http::Connection;

/// What stands before every message: a flag and the length.
const HEAD_BYTES: usize = 5;
/// The flag of the last message, which says what went wrong.
const LAST: u8 = 2;
/// The daemon's messages are much shorter.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Something that happened to a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It runs, under this number.
    Started(u64),
    /// It printed this, to its terminal if it has one.
    Output(Bytes),
    /// It printed this to its standard error.
    Error(Bytes),
    /// It ended by itself, with this status.
    Exited(i64),
    /// It ended in another way.
    Ended(String),
}

/// What happens to a process, in its order.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    received: BytesMut,
}

/// Starts a process as a `StartRequest` says.
pub(crate) async fn start(connection: &mut Connection, request: &Value) -> Result<Events, String> {
    Ok(Events::of(connection.start_process(request).await?))
}

impl Events {
    /// Those of a process that was started.
    pub(crate) fn of(body: Incoming) -> Self {
        Self { body, received: BytesMut::new() }
    }

    /// What happened next; `None` after the last. Fails when the stream does, or ends without having been finished.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, String> {
        loop {
            while let Some((flags, message)) = take(&mut self.received)? {
                match read(flags, &message)? {
                    Read::Event(event) => return Ok(Some(event)),
                    Read::Last => return Ok(None),
                    Read::Nothing => {}
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.received.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                Some(Err(error)) => return Err(format!("the connection to the guest broke: {error}")),
                None => return Err("the guest ended the stream before its last message".into()),
            }
        }
    }
}

/// The first message that is here as a whole.
fn take(received: &mut BytesMut) -> Result<Option<(u8, Bytes)>, String> {
    let Some(&[flags, a, b, c, d]) = received.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE_BYTES {
        return Err(format!("the guest sent a message of {length} bytes, more than {MAX_MESSAGE_BYTES}"));
    }
    if received.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    received.advance(HEAD_BYTES);
    Ok(Some((flags, received.split_to(length).freeze())))
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    Event(Event),
    /// There is none after it.
    Last,
    Nothing,
}

fn read(flags: u8, message: &[u8]) -> Result<Read, String> {
    let message: Value = serde_json::from_slice(message)
        .map_err(|error| format!("what the guest sent is no JSON: {error}"))?;
    if flags & LAST != 0 {
        return match message.get("error") {
            None => Ok(Read::Last),
            Some(error) => {
                let why = error.get("message").and_then(Value::as_str);
                Err(why.map_or_else(|| error.to_string(), printable))
            }
        };
    }
    let at = |path: &str| message.pointer(path);
    if let Some(pid) = at("/event/start/pid").and_then(Value::as_u64) {
        return Ok(Read::Event(Event::Started(pid)));
    }
    for (path, event) in [
        ("/event/data/stdout", Event::Output as fn(Bytes) -> Event),
        ("/event/data/pty", Event::Output),
        ("/event/data/stderr", Event::Error),
    ] {
        if let Some(text) = at(path).and_then(Value::as_str) {
            let bytes = BASE64_STANDARD.decode(text);
            let bytes = bytes.map_err(|error| format!("output that the guest sent: {error}"))?;
            return Ok(Read::Event(event(bytes.into())));
        }
    }
    let Some(end) = at("/event/end") else { return Ok(Read::Nothing) };
    if end.get("exited").and_then(Value::as_bool) == Some(true) {
        // Zero is left out.
        let status = end.get("exitCode").and_then(Value::as_i64).unwrap_or(0);
        return Ok(Read::Event(Event::Exited(status)));
    }
    let status = end.get("status").and_then(Value::as_str).map(printable);
    Ok(Read::Event(Event::Ended(status.unwrap_or_default())))
}

/// What a guest says, for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// What is typed, for the terminal or the standard input of a process.
pub(crate) async fn type_in(
    connection: &mut Connection,
    pid: u64,
    into: Input,
    bytes: &[u8],
) -> Result<(), String> {
    let input = json!({ into.name(): BASE64_STANDARD.encode(bytes) });
    let request = json!({ "process": { "pid": pid }, "input": input });
    connection.json("POST", "/process.Process/SendInput", &request).await.map(drop)
}

/// There is nothing more to type.
pub(crate) async fn end_input(connection: &mut Connection, pid: u64) -> Result<(), String> {
    let request = json!({ "process": { "pid": pid } });
    connection.json("POST", "/process.Process/CloseStdin", &request).await.map(drop)
}

/// The terminal has another size.
pub(crate) async fn resize(
    connection: &mut Connection,
    pid: u64,
    columns: u16,
    rows: u16,
) -> Result<(), String> {
    let size = json!({ "cols": columns, "rows": rows });
    let request = json!({ "process": { "pid": pid }, "pty": { "size": size } });
    connection.json("POST", "/process.Process/Update", &request).await.map(drop)
}

/// Where what is typed goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The terminal.
    Terminal,
    /// A pipe.
    Pipe,
}

impl Input {
    const fn name(self) -> &'static str {
        match self {
            Self::Terminal => "pty",
            Self::Pipe => "stdin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Result<Read, String> {
        read(0, text.as_bytes())
    }

    #[test]
    fn what_a_guest_sends_is_read() {
        for (text, event) in [
            (r#"{"event":{"start":{"pid":7}}}"#, Event::Started(7)),
            (r#"{"event":{"data":{"stdout":"aGk="}}}"#, Event::Output("hi".into())),
            (r#"{"event":{"data":{"pty":"aGk="}}}"#, Event::Output("hi".into())),
            (r#"{"event":{"data":{"stderr":"aGk="}}}"#, Event::Error("hi".into())),
            (r#"{"event":{"end":{"exited":true,"status":"exit status 0"}}}"#, Event::Exited(0)),
            (r#"{"event":{"end":{"exited":true,"exitCode":3}}}"#, Event::Exited(3)),
            (
                r#"{"event":{"end":{"exitCode":-1,"status":"signal: \u001b[31mkilled"}}}"#,
                Event::Ended("signal: [31mkilled".into()),
            ),
        ] {
            assert_eq!(message(text), Ok(Read::Event(event)), "{text}");
        }
        assert_eq!(message(r#"{"event":{"keepalive":{}}}"#), Ok(Read::Nothing));
        assert_eq!(read(LAST, b"{}"), Ok(Read::Last));
        assert_eq!(read(LAST, br#"{"error":{"code":"internal","message":"no"}}"#), Err("no".into()));
        assert!(message("[").is_err() && message(r#"{"event":{"data":{"stdout":"?"}}}"#).is_err());
    }

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let mut received = BytesMut::from(&[0, 0, 0, 0, 2, b'{'][..]);
        assert_eq!(take(&mut received), Ok(None));
        received.extend_from_slice(b"}\x02");
        assert_eq!(take(&mut received), Ok(Some((0, "{}".into()))));
        assert_eq!(&received[..], [2]);
        assert!(take(&mut BytesMut::from(&[0, 255, 255, 255, 255][..])).is_err());
    }
}
