//! The head of what a guest's daemon answers to a request for a connection.
//!
//! The first byte of the input is how many bytes come at a time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loopback::{AnswerHead, BadAnswer, MAX_ANSWER_HEAD, Taken};

const HEAD_END: &[u8] = b"\r\n\r\n";

fuzz_target!(|input: &[u8]| {
    let [size, bytes @ ..] = input else { return };
    let whole = AnswerHead::default().take(bytes);
    assert_eq!(whole, in_pieces(bytes, usize::from(*size).max(1)));
    match whole {
        Ok(Taken::Head { length, status }) => {
            let head = &bytes[..length];
            assert!(
                length <= MAX_ANSWER_HEAD && head.starts_with(format!("HTTP/1.1 {status:03}").as_bytes())
            );
            assert_eq!(
                head.windows(HEAD_END.len()).position(|window| window == HEAD_END),
                Some(length - HEAD_END.len())
            );
        }
        Ok(Taken::All) => assert!(bytes.len() < MAX_ANSWER_HEAD),
        Err(BadAnswer::TooLong) => assert!(bytes.len() >= MAX_ANSWER_HEAD),
        Err(BadAnswer::NotHttp) => {}
    }
});

fn in_pieces(bytes: &[u8], size: usize) -> Result<Taken, BadAnswer> {
    let mut head = AnswerHead::default();
    for (number, piece) in bytes.chunks(size).enumerate() {
        if let Taken::Head { length, status } = head.take(piece)? {
            return Ok(Taken::Head { length: number * size + length, status });
        }
    }
    Ok(Taken::All)
}
