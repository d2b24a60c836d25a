//! Requests to the guest daemon's services: envelopes, JSON and the binary form, with any headers that those look at.
//!
//! The first bytes of the input choose the path, the kind of the body, how it is cut and a timeout; the rest is the body.
//! All of it is for a user whom nobody is, so that it is read and nothing is done.
#![no_main]

use std::sync::LazyLock;

use envd::fuzzing::{CONTENT_TYPES, Daemon, PATHS};
use libfuzzer_sys::fuzz_target;

static DAEMON: LazyLock<Daemon> = LazyLock::new(|| Daemon::new().expect("a runtime"));

fuzz_target!(|input: &[u8]| {
    let [path, kind, cut, timeout, body @ ..] = input else { return };
    let path = PATHS[usize::from(*path) % PATHS.len()];
    let kind = CONTENT_TYPES[usize::from(*kind) % CONTENT_TYPES.len()];
    let mut headers: Vec<(&str, &[u8])> = vec![("content-type", kind.as_bytes())];
    let number = timeout.to_string();
    match timeout % 4 {
        0 => headers.push(("connect-timeout-ms", &body[..body.len().min(12)])),
        1 => headers.push(("connect-timeout-ms", number.as_bytes())),
        2 => headers.push(("connect-content-encoding", b"gzip")),
        _ => headers.push(("connect-protocol-version", b"1")),
    }
    let pieces = body.chunks(usize::from(*cut).max(1)).map(<[u8]>::to_vec).collect();
    let Some((status, answer)) = DAEMON.ask(path, &headers, pieces) else { return };
    if status.is_success() && kind.starts_with("application/connect+") {
        assert!(ends_as_a_stream(&answer), "{path}: {answer:?}");
    } else if !status.is_success() && kind.starts_with("application/json") && status != 415 {
        assert!(answer.is_empty() || answer.starts_with(b"{"), "{path}: {status}: {answer:?}");
    }
});

/// Whether this is a row of envelopes of which the last one, and no other, is the end.
fn ends_as_a_stream(mut answer: &[u8]) -> bool {
    loop {
        let [flags, a, b, c, d, rest @ ..] = answer else { return false };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let Some((_message, rest)) = rest.split_at_checked(length) else { return false };
        if flags & 0b10 != 0 {
            return rest.is_empty();
        }
        answer = rest;
    }
}
