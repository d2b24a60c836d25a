//! Requests made to be understood differently by two servers in a row.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Raw, Served, raw_guest, soon};

const HEAD: &str = "POST /first HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n";

/// Answers each request with its header and all the bytes of its body, reading framing strictly.
fn strict_guest() -> std::net::SocketAddr {
    raw_guest(|mut raw: Raw| async move {
        while let Some(head) = raw.try_head().await {
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let chunked = lower.contains("transfer-encoding: chunked");
            assert!(!(chunked && length.is_some()), "framed twice: {head}");
            let mut body = String::new();
            if chunked {
                loop {
                    let mut line = String::new();
                    while !line.ends_with("\r\n") {
                        line += &raw.exactly(1).await;
                    }
                    let size = usize::from_str_radix(line.trim(), 16).unwrap();
                    body += raw.exactly(size + 2).await.trim_end_matches("\r\n");
                    if size == 0 {
                        break;
                    }
                }
            } else if let Some(length) = length {
                body = raw.exactly(length).await;
            }
            let text = format!("{head}[{body}]");
            raw.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())).await;
        }
    })
}

#[tokio::test]
async fn two_framings_become_one_and_end_the_connection() {
    let served = Served::one(strict_guest()).await;
    for framings in [
        "content-length: 6\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
    ] {
        let mut raw = served.connect().await;
        raw.send(&format!("{HEAD}{framings}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let (head, seen) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(seen.ends_with("[]") && !seen.contains("content-length: 6"), "{seen}");
        // What follows is not taken for a request (RFC 9112, 6.3).
        assert_eq!(raw.rest().await, "");
    }
}

#[tokio::test]
async fn framings_that_can_be_read_two_ways_are_refused() {
    let served = Served::one(strict_guest()).await;
    for framing in [
        "content-length: 3\r\ncontent-length: 4\r\n",
        "content-length: +3\r\n",
        "content-length: 0x3\r\n",
        "content-length: 3, 4\r\n",
        "content-length: -1\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding: chunked\r\n x: y\r\n",
        "host : y\r\n",
        "x\0y: 1\r\n",
        "x: a\0b\r\n",
    ] {
        let mut raw = served.connect().await;
        raw.send(&format!("{HEAD}{framing}\r\n3\r\nabc\r\n0\r\n\r\n")).await;
        let head = raw.head().await;
        assert!(head.starts_with("HTTP/1.1 400 "), "{framing:?}: {head}");
        raw.rest().await;
    }
    assert_eq!(served.world.connects(), 0);
}

#[tokio::test]
async fn a_broken_chunk_ends_the_request_on_both_sides() {
    let served = Served::one(strict_guest()).await;
    let mut raw = served.connect().await;
    raw.send(&format!("{HEAD}transfer-encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\n")).await;
    let all = raw.rest().await;
    assert!(!all.starts_with("HTTP/1.1 200 "), "{all}");
}

#[tokio::test]
async fn a_connection_header_cannot_remove_what_matters() {
    let served = Served::one(strict_guest()).await;
    let mut raw = served.connect().await;
    raw.send(&format!(
        "{HEAD}content-length: 3\r\nconnection: content-length, host, x-forwarded-for\r\n\r\nabc"
    ))
    .await;
    let (_, seen) = raw.response().await;
    assert!(seen.ends_with("[abc]"), "{seen}");
    assert!(seen.contains("\r\nhost: x\r\n") && seen.contains("x-forwarded-for: 127.0.0.1"), "{seen}");
}

#[tokio::test]
async fn a_guest_cannot_answer_the_next_request_in_advance() {
    // Two answers to one request: the second must not be given to whoever comes next.
    let served = Served::one(raw_guest(|mut raw| async move {
        while raw.try_head().await.is_some() {
            raw.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison").await;
        }
    }))
    .await;
    let mut raw = served.connect().await;
    for _ in 0..20 {
        raw.send("GET / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n").await;
        assert_eq!(raw.response().await.1, "first");
    }
}

/// An HTTP/2 frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

#[tokio::test]
async fn resetting_streams_in_a_row_ends_the_connection() {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const END_HEADERS: u8 = 4;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 11];
    // Indexed fields of the static table: POST, http, /, and a literal authority.
    const REQUEST: &[u8] = b"\x83\x86\x84\x41\x01x";

    let served = Served::start().await;
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(SETTINGS, 0, 0, &[]));
    for stream in (1..10_000).step_by(2) {
        flood.extend(frame(HEADERS, END_HEADERS, stream, REQUEST));
        flood.extend(frame(RST_STREAM, 0, stream, &CANCEL));
    }
    let (mut read, mut write) = served.connect().await.0.into_split();
    let writing = tokio::spawn(async move { write.write_all(&flood).await });
    let mut said = Vec::new();
    let _ = soon(read.read_to_end(&mut said)).await;
    let _ = soon(writing).await;
    // Frames one after the other; the last is the reason why the connection ends.
    let mut rest = said.as_slice();
    let mut reason = None;
    while let [a, b, c, kind, _flags, _, _, _, _, payload @ ..] = rest {
        let (payload, next) = payload.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        if *kind == GOAWAY {
            reason = Some(payload[4..8].to_vec());
        }
        rest = next;
    }
    assert_eq!(reason.as_deref(), Some(ENHANCE_YOUR_CALM.as_slice()));
}
