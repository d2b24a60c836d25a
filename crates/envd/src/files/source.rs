//! Contents of a file on their way in.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::pin::Pin;

use axum::body::Body;
use bytes::{Buf as _, Bytes};
use flate2::bufread::MultiGzDecoder;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, header};
use thiserror::Error;

use crate::filesystem::blocking;

/// Most bytes that are unpacked at once, whatever was packed into them.
const UNPACKED: usize = 256 << 10;

/// What a client sends cannot be read to its end: it hung up, or sent something else than it said.
#[derive(Debug, Error)]
#[error("error reading the request body: {0}")]
pub(super) struct SourceError(pub(super) String);

/// Bytes from a client.
pub(super) type Source = Pin<Box<dyn Stream<Item = Result<Bytes, SourceError>> + Send>>;

/// The body of a request as its headers say it is encoded.
///
/// # Errors
///
/// What is wrong with the encoding, for people.
pub(super) fn source(headers: &HeaderMap, body: Body) -> Result<Source, String> {
    let plain = body.into_data_stream().map_err(|error| SourceError(reason(&error))).boxed();
    let encoding = match headers.get(header::CONTENT_ENCODING) {
        None => "",
        Some(value) => value.to_str().unwrap_or("?").trim(),
    };
    if encoding.is_empty() || encoding.eq_ignore_ascii_case("identity") {
        Ok(plain)
    } else if encoding.eq_ignore_ascii_case("gzip") {
        Ok(unpack(plain))
    } else {
        Err(format!("unsupported Content-Encoding '{encoding}': there are identity and gzip"))
    }
}

/// The innermost reason: what wraps it says only that there is one.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Unpacks gzip, piece by piece, on the blocking pool.
fn unpack(packed: Source) -> Source {
    let state = Unpacking { packed, decoder: Some(MultiGzDecoder::new(Feed::default())) };
    stream::try_unfold(state, Unpacking::next).boxed()
}

struct Unpacking {
    packed: Source,
    decoder: Option<MultiGzDecoder<Feed>>,
}

impl Unpacking {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, SourceError> {
        while let Some(decoder) = self.decoder.take() {
            let (mut decoder, outcome) = blocking(move || unpack_some(decoder)).await;
            match outcome {
                Ok(bytes) if bytes.is_empty() => return Ok(None),
                Ok(bytes) => {
                    self.decoder = Some(decoder);
                    return Ok(Some((bytes, self)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let feed = decoder.get_mut();
                    match self.packed.next().await {
                        Some(packed) => feed.waiting.push_back(packed?),
                        None => feed.ended = true,
                    }
                    self.decoder = Some(decoder);
                }
                Err(error) => return Err(SourceError(format!("gzip: {error}"))),
            }
        }
        Ok(None)
    }
}

/// Unpacks until there is nothing left to unpack or a piece is full.
fn unpack_some(mut decoder: MultiGzDecoder<Feed>) -> (MultiGzDecoder<Feed>, io::Result<Bytes>) {
    let mut piece = vec![0; UNPACKED];
    let mut filled = 0;
    let outcome = loop {
        match decoder.read(&mut piece[filled..]) {
            Ok(0) => break Ok(()),
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && filled > 0 => break Ok(()),
            Err(error) => break Err(error),
        }
        if filled == piece.len() {
            break Ok(());
        }
    };
    piece.truncate(filled);
    (decoder, outcome.map(|()| piece.into()))
}

/// What has come and was not unpacked yet. Reading it when there is nothing is an error that passes.
#[derive(Debug, Default)]
struct Feed {
    waiting: VecDeque<Bytes>,
    ended: bool,
}

impl BufRead for Feed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.waiting.front().is_some_and(Bytes::is_empty) {
            self.waiting.pop_front();
        }
        match self.waiting.front() {
            Some(bytes) => Ok(bytes),
            None if self.ended => Ok(&[]),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn consume(&mut self, amount: usize) {
        if let Some(bytes) = self.waiting.front_mut() {
            bytes.advance(amount.min(bytes.len()));
        }
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn pack(contents: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(contents).unwrap();
        encoder.finish().unwrap()
    }

    async fn unpacked(pieces: Vec<Vec<u8>>) -> Result<Vec<u8>, SourceError> {
        let packed = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece)))).boxed();
        unpack(packed)
            .try_fold(Vec::new(), |mut all, piece| async move {
                assert!(!piece.is_empty() && piece.len() <= UNPACKED);
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await
    }

    #[tokio::test]
    async fn every_way_to_cut_it() {
        let contents: Vec<u8> = (0..200_000_u32).flat_map(|number| (number / 3).to_le_bytes()).collect();
        let packed = pack(&contents);
        assert_eq!(unpacked(vec![packed.clone()]).await.unwrap(), contents);
        assert_eq!(unpacked(packed.chunks(10_007).map(<[u8]>::to_vec).collect()).await.unwrap(), contents);
        let small = pack(b"hello");
        assert_eq!(unpacked(small.iter().map(|byte| vec![*byte]).collect()).await.unwrap(), b"hello");
        // Several members are one file (RFC 1952, section 2.2).
        let two = [pack(b"hello "), Vec::new(), pack(b"world")];
        assert_eq!(unpacked(two.to_vec()).await.unwrap(), b"hello world");
        assert_eq!(unpacked(vec![pack(b"")]).await.unwrap(), b"");
    }

    #[tokio::test]
    async fn a_bomb_comes_in_pieces() {
        let bomb = pack(&vec![0; 8 << 20]);
        assert!(bomb.len() < 100_000);
        assert_eq!(unpacked(vec![bomb]).await.unwrap().len(), 8 << 20);
    }

    #[tokio::test]
    async fn damage_is_an_error() {
        let packed = pack(&[7; 100_000]);
        for length in [0, 1, 5, 20, packed.len() - 1] {
            assert!(unpacked(vec![packed[..length].to_vec()]).await.is_err(), "{length}");
        }
        let mut damaged = packed.clone();
        let last = damaged.len() - 5;
        damaged[last] ^= 1;
        assert!(unpacked(vec![damaged]).await.is_err());
        assert!(unpacked(vec![b"this is not gzip".to_vec()]).await.is_err());
        assert!(unpacked(vec![packed, b"and then text".to_vec()]).await.is_err());
    }
}
