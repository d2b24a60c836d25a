//! Part of `coldframe bench envd`: many streams at once, of which no byte is lost.

use std::net::SocketAddr;
use std::time::Instant;

use futures_util::future::try_join_all;

use super::envd::rate;
use super::report::bar;
use crate::exec::{Event, Events};
use crate::http::{Connection, as_user};

const STREAMS: u64 = 64;
/// Numbers that each of them counts, and so lines.
const LINES: u64 = 500_000;
/// All streams count numbers of eight digits, each others.
const FIRST: u64 = 10_000_000;

/// Follows many processes that count, and looks at each number.
pub(super) async fn run(address: SocketAddr) -> Result<(), String> {
    let begun = Instant::now();
    let bytes = try_join_all((0..STREAMS).map(|stream| follow(address, FIRST + stream * LINES))).await?;
    let bytes: usize = bytes.into_iter().sum();
    println!("{STREAMS} streams at once, each number looked at: {:.2} MiB/s", rate(bytes, begun.elapsed()));
    #[allow(clippy::cast_precision_loss, reason = "a small number")]
    bar("streams without a loss", STREAMS as f64, "", true, "all");
    Ok(())
}

/// Follows one that counts from `first`. Fails unless it says all numbers in order and then that it ended well.
async fn follow(address: SocketAddr, first: u64) -> Result<usize, String> {
    let (from, to) = (first.to_string(), (first + LINES - 1).to_string());
    let mut connection = Connection::open(address, vec![as_user("root")]).await?;
    let mut events = Events::of(connection.start("/usr/bin/seq", &[&from, &to]).await?);
    let (mut counted, mut bytes, mut ended) = (Counted { next: first, begun: Vec::new() }, 0, None);
    while let Some(event) = events.next().await? {
        match event {
            Event::Output(output) => {
                bytes += output.len();
                counted.hear(&output)?;
            }
            Event::Exited(code) => ended = Some(code),
            Event::Started(_) | Event::Error(_) | Event::Ended(_) => {}
        }
    }
    if ended == Some(0) && counted.next == first + LINES && counted.begun.is_empty() {
        return Ok(bytes);
    }
    Err(format!("a stream from {first} to {to} ended with {ended:?} before {}", counted.next))
}

/// Numbers that come one after the other, in pieces that may end anywhere.
struct Counted {
    next: u64,
    /// The beginning of a line whose end is to come.
    begun: Vec<u8>,
}

impl Counted {
    fn hear(&mut self, output: &[u8]) -> Result<(), String> {
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                if self.begun != format!("{}\n", self.next).as_bytes() {
                    return Err(format!(
                        "{:?} came instead of {}",
                        String::from_utf8_lossy(&self.begun),
                        self.next
                    ));
                }
                self.next += 1;
                self.begun.clear();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_be_cut_anywhere_and_none_may_be_missing() {
        let heard = |pieces: &[&str]| {
            let mut counted = Counted { next: 9, begun: Vec::new() };
            pieces.iter().try_for_each(|piece| counted.hear(piece.as_bytes())).map(|()| counted.next)
        };
        assert_eq!(heard(&["9\n1", "0", "\n11\n", ""]), Ok(12));
        assert!(heard(&["9\n11\n"]).is_err());
        assert!(heard(&["9\n9\n"]).is_err());
        assert!(heard(&["9\n", "\n10\n"]).is_err());
    }
}
