//! A process in a guest, as its daemon shows it: what it prints, and how it ends.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
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
    Output(Vec<u8>),
    /// It printed this to its standard error.
    Error(Vec<u8>),
    /// It ended by itself, with this status.
    Exited(i64),
    /// It ended in another way.
    Ended(String),
}

/// What happens to a process, in its order.
#[derive(Debug)]
pub(crate) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

/// Starts a process as a `StartRequest` says.
pub(crate) async fn start(connection: &mut Connection, request: &Value) -> Result<Events, String> {
    Ok(Events { body: connection.start_process(request).await?, buffer: Vec::new() })
}

impl Events {
    /// What happened next.
    pub(crate) async fn next(&mut self) -> Result<Event, String> {
        loop {
            while let Some((flag, message)) = take(&mut self.buffer)? {
                if let Some(event) = read(flag, &message)? {
                    return Ok(event);
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(format!("the connection to the guest broke: {error}")),
                None => return Err("the guest ended the connection before the process had ended".into()),
            }
        }
    }
}

/// The first whole message, if there is one.
fn take(buffer: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, String> {
    let Some(&[flag, a, b, c, d]) = buffer.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE_BYTES {
        return Err(format!("the guest sent a message of {length} bytes, more than {MAX_MESSAGE_BYTES}"));
    }
    if buffer.len() < HEAD_BYTES + length {
        return Ok(None);
    }
    let message = buffer.drain(..HEAD_BYTES + length).skip(HEAD_BYTES).collect();
    Ok(Some((flag, message)))
}

/// What a message says; `None` when that is nothing.
fn read(flag: u8, message: &[u8]) -> Result<Option<Event>, String> {
    let message: Value = serde_json::from_slice(message)
        .map_err(|error| format!("what the guest sent is no JSON: {error}"))?;
    if flag & LAST != 0 {
        let why = message.pointer("/error/message").and_then(Value::as_str);
        return Err(why.map_or("the process is not followed any more".to_owned(), printable));
    }
    let at = |path: &str| message.pointer(path);
    let bytes = |path: &str| {
        let text = at(path)?.as_str()?;
        Some(BASE64_STANDARD.decode(text).map_err(|error| format!("output that the guest sent: {error}")))
    };
    if let Some(pid) = at("/event/start/pid").and_then(Value::as_u64) {
        return Ok(Some(Event::Started(pid)));
    }
    for (path, event) in [
        ("/event/data/stdout", Event::Output as fn(Vec<u8>) -> Event),
        ("/event/data/pty", Event::Output),
        ("/event/data/stderr", Event::Error),
    ] {
        if let Some(bytes) = bytes(path) {
            return bytes.map(|bytes| Some(event(bytes)));
        }
    }
    let Some(end) = at("/event/end") else { return Ok(None) };
    if end.get("exited").and_then(Value::as_bool) == Some(true) {
        // Zero is left out.
        return Ok(Some(Event::Exited(end.get("exitCode").and_then(Value::as_i64).unwrap_or(0))));
    }
    let status = end.get("status").and_then(Value::as_str).map(printable);
    Ok(Some(Event::Ended(status.unwrap_or_default())))
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

    fn message(text: &str) -> Result<Option<Event>, String> {
        read(0, text.as_bytes())
    }

    #[test]
    fn what_a_guest_sends_is_read() {
        assert_eq!(message(r#"{"event":{"start":{"pid":7}}}"#), Ok(Some(Event::Started(7))));
        assert_eq!(message(r#"{"event":{"data":{"stdout":"aGk="}}}"#), Ok(Some(Event::Output(b"hi".into()))));
        assert_eq!(message(r#"{"event":{"data":{"pty":"aGk="}}}"#), Ok(Some(Event::Output(b"hi".into()))));
        assert_eq!(message(r#"{"event":{"data":{"stderr":"aGk="}}}"#), Ok(Some(Event::Error(b"hi".into()))));
        assert_eq!(message(r#"{"event":{"keepalive":{}}}"#), Ok(None));
        assert_eq!(
            message(r#"{"event":{"end":{"exited":true,"status":"exit status 0"}}}"#),
            Ok(Some(Event::Exited(0)))
        );
        assert_eq!(message(r#"{"event":{"end":{"exited":true,"exitCode":3}}}"#), Ok(Some(Event::Exited(3))));
        let killed = message(r#"{"event":{"end":{"exitCode":-1,"status":"signal: \u001b[31mkilled"}}}"#);
        assert_eq!(killed, Ok(Some(Event::Ended("signal: [31mkilled".into()))));
        assert_eq!(read(LAST, br#"{"error":{"code":"internal","message":"no"}}"#), Err("no".into()));
        assert!(message("[").is_err() && message(r#"{"event":{"data":{"stdout":"?"}}}"#).is_err());
    }

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        let mut buffer = vec![0, 0, 0, 0, 2, b'{'];
        assert_eq!(take(&mut buffer), Ok(None));
        buffer.extend(b"}\x02");
        assert_eq!(take(&mut buffer), Ok(Some((0, b"{}".to_vec()))));
        assert_eq!(buffer, [2]);
        assert!(take(&mut vec![0, 255, 255, 255, 255]).is_err());
    }
}
