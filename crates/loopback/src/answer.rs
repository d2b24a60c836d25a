//! The head of the daemon's answer, byte by byte: what follows it belongs to somebody else.

/// Most bytes of an answer's head. The daemon's own are a tenth of it; a guest may send anything.
pub const MAX_ANSWER_HEAD: usize = 4 << 10;

const VERSION: &[u8] = b"HTTP/1.1 ";
const STATUS_END: usize = VERSION.len() + 3;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// What is not the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It does not begin as one.
    #[error("the answer is not HTTP/1.1")]
    NotHttp,
    /// It does not end.
    #[error("the head of the answer has more than {MAX_ANSWER_HEAD} bytes")]
    TooLong,
}

/// What became of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// All of them are of the head, which goes on.
    All,
    /// The head ends with the first `length` of them; it has this status.
    Head {
        /// Bytes of the head; the others follow it.
        length: usize,
        /// Three digits, not necessarily a status that means something.
        status: u16,
    },
}

/// A head that is being read.
#[derive(Debug, Default)]
pub struct AnswerHead {
    seen: usize,
    /// The value of the digits of the status so far.
    status: u16,
    /// How much of the head's end the last bytes are.
    matched: usize,
}

impl AnswerHead {
    /// Takes the next bytes. Nothing may be given to a head that has ended or was bad.
    ///
    /// # Errors
    /// As soon as it is known that this does not become a head.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Taken, BadAnswer> {
        for (at, &byte) in bytes.iter().enumerate() {
            self.status_line(byte)?;
            self.seen += 1;
            self.matched = match (HEAD_END.get(self.matched), byte) {
                (Some(&expected), byte) if expected == byte => self.matched + 1,
                (_, b'\r') => 1,
                _ => 0,
            };
            if self.matched == HEAD_END.len() {
                return Ok(Taken::Head { length: at + 1, status: self.status });
            }
            if self.seen >= MAX_ANSWER_HEAD {
                return Err(BadAnswer::TooLong);
            }
        }
        Ok(Taken::All)
    }

    /// The version, three digits, and an end of those.
    fn status_line(&mut self, byte: u8) -> Result<(), BadAnswer> {
        let fits = match self.seen {
            at if at < STATUS_END => match VERSION.get(at) {
                Some(&expected) => byte == expected,
                None => {
                    self.status = self.status * 10 + u16::from(byte.wrapping_sub(b'0') % 10);
                    byte.is_ascii_digit()
                }
            },
            STATUS_END => matches!(byte, b' ' | b'\r'),
            _ => true,
        };
        if fits { Ok(()) } else { Err(BadAnswer::NotHttp) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> Result<Taken, BadAnswer> {
        AnswerHead::default().take(bytes)
    }

    #[test]
    fn a_head_ends_where_it_ends() {
        for (head, status) in [
            ("HTTP/1.1 200 OK\r\n\r\n", 200),
            ("HTTP/1.1 200\r\n\r\n", 200),
            ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 3\r\ndate: x\r\n\r\n", 502),
            ("HTTP/1.1 999 \r\r\n\r\n", 999),
            ("HTTP/1.1 000 x\r\n\r\r\n\r\n", 0),
        ] {
            for rest in ["", "\r\n\r\n", "HTTP/1.1 500 \r\n\r\n"] {
                let taken = whole(format!("{head}{rest}").as_bytes());
                assert_eq!(taken, Ok(Taken::Head { length: head.len(), status }), "{head:?}");
            }
            for end in 0..head.len() {
                assert_eq!(whole(&head.as_bytes()[..end]), Ok(Taken::All), "{head:?} {end}");
            }
        }
    }

    #[test]
    fn what_is_no_head_is_seen_at_once() {
        for bad in [
            "\r",
            "\n",
            "SSH-2.0",
            "http/1.1 200",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/2 200",
            "HTTP/1.1  200",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 -20",
            "HTTP/1.1 200\n",
        ] {
            assert_eq!(whole(bad.as_bytes()), Err(BadAnswer::NotHttp), "{bad:?}");
        }
        let mut head = AnswerHead::default();
        assert_eq!(head.take(b"HTTP/1.1 200 "), Ok(Taken::All));
        let endless = std::iter::repeat_with(|| head.take(b"x: y\r\n"))
            .take(10_000)
            .find(|taken| *taken != Ok(Taken::All));
        assert_eq!(endless, Some(Err(BadAnswer::TooLong)));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(
            bytes in prop_oneof![any::<Vec<u8>>(), "HTTP/1.1 [0-9]{3} ?[\r\nx]{0,40}".prop_map(String::into_bytes)],
            size in 1..20_usize,
        ) {
            let mut head = AnswerHead::default();
            let mut before = 0;
            let mut taken = Ok(Taken::All);
            for piece in bytes.chunks(size) {
                taken = head.take(piece);
                if let Ok(Taken::Head { length, status }) = taken {
                    taken = Ok(Taken::Head { length: before + length, status });
                }
                if taken != Ok(Taken::All) {
                    break;
                }
                before += piece.len();
            }
            prop_assert_eq!(taken, whole(&bytes));
        }
    }
}
