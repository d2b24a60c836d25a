//! What subscribers of a process hear, and how it looks on the wire.

use base64_simd::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use connectrpc::{CodecFormat, ConnectError, Encodable, EncodedBody};
use envd_proto::process::__buffa::oneof::process_event::Event as Oneof;
use envd_proto::process::process_event::{EndEvent, KeepAlive, StartEvent};
use envd_proto::process::{ConnectResponse, ProcessEvent, StartResponse};

use super::buffer::{Buffer, COPY_BYTES};
use super::exit::Exit;

/// Where output came from. The value is the number of its field in `DataEvent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Stdout = 1,
    Stderr = 2,
    Terminal = 3,
}

impl Source {
    /// The name on the wire.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Terminal => "pty",
        }
    }
}

/// A piece of output.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub(super) source: Source,
    pub(super) data: Bytes,
}

/// One event of a stream.
#[derive(Debug, Clone)]
pub(super) enum Event {
    Start { pid: u32 },
    Data(Chunk),
    End(Exit),
    KeepAlive,
}

/// `StartResponse` and `ConnectResponse` have the same form, so one encoding serves both. Output is written by hand:
/// nearly all bytes that this daemon sends are output, and this way they are copied once.
impl Event {
    fn encode(&self, codec: CodecFormat) -> Result<EncodedBody, ConnectError> {
        let event: Oneof = match self {
            Self::Data(chunk) => {
                match codec {
                    CodecFormat::Json => return Ok(chunk.json().into()),
                    CodecFormat::Proto => {
                        return Ok(EncodedBody::from_segments(vec![chunk.proto_head(), chunk.data.clone()]));
                    }
                    // A codec that this daemon does not offer, but the library may one day.
                    _ => return Err(ConnectError::unimplemented("unknown codec")),
                }
            }
            Self::Start { pid } => StartEvent { pid: *pid }.into(),
            Self::End(exit) => EndEvent {
                exit_code: exit.code(),
                exited: exit.exited(),
                status: exit.status(),
                error: exit.error(),
            }
            .into(),
            Self::KeepAlive => KeepAlive {}.into(),
        };
        let response = StartResponse { event: ProcessEvent { event: Some(event) }.into() };
        Encodable::<StartResponse>::encode_segments(&response, codec)
    }
}

impl Encodable<StartResponse> for Event {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        Self::encode(self, codec).map(EncodedBody::into_contiguous)
    }

    fn encode_segments(&self, codec: CodecFormat) -> Result<EncodedBody, ConnectError> {
        Self::encode(self, codec)
    }
}

impl Encodable<ConnectResponse> for Event {
    fn encode(&self, codec: CodecFormat) -> Result<Bytes, ConnectError> {
        Self::encode(self, codec).map(EncodedBody::into_contiguous)
    }

    fn encode_segments(&self, codec: CodecFormat) -> Result<EncodedBody, ConnectError> {
        Self::encode(self, codec)
    }
}

impl Chunk {
    /// `{"event":{"data":{"stdout":"…"}}}`
    fn json(&self) -> Bytes {
        let mut buffer = Buffer::take();
        let text = buffer.contents();
        text.extend_from_slice(br#"{"event":{"data":{""#);
        text.extend_from_slice(self.source.as_str().as_bytes());
        text.extend_from_slice(br#"":""#);
        STANDARD.encode_append(&self.data, text);
        text.extend_from_slice(br#""}}}"#);
        // A short one waits in a queue for no longer than it takes to copy it.
        if text.len() <= COPY_BYTES { Bytes::copy_from_slice(text) } else { buffer.freeze() }
    }

    /// All of the binary form that comes before the data: three nested messages, each `tag, length`.
    fn proto_head(&self) -> Bytes {
        const LENGTH_DELIMITED: u8 = 2;
        // `StartResponse.event`, `ProcessEvent.data`, `DataEvent.stdout` and its siblings.
        let fields = [1, 2, self.source as u8];
        let length = self.data.len();
        // From the inside out: a message is the tag of its field, a length, and what is in it.
        let data_event = 1 + varint_length(length) + length;
        let process_event = 1 + varint_length(data_event) + data_event;
        let mut head = BytesMut::with_capacity(3 * (1 + 10));
        for (field, length) in fields.into_iter().zip([process_event, data_event, length]) {
            head.put_u8(field << 3 | LENGTH_DELIMITED);
            put_varint(&mut head, length);
        }
        head.freeze()
    }
}

fn varint_length(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

fn put_varint(buffer: &mut BytesMut, mut value: usize) {
    loop {
        #[allow(clippy::cast_possible_truncation, reason = "the lowest seven bits are what is wanted")]
        let lowest = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            return buffer.put_u8(lowest);
        }
        buffer.put_u8(lowest | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use envd_proto::process::process_event::DataEvent;
    use envd_proto::process::process_event::data_event::Output;

    use super::*;

    fn generated(chunk: &Chunk) -> StartResponse {
        let data = chunk.data.to_vec();
        let output = match chunk.source {
            Source::Stdout => Output::Stdout(data),
            Source::Stderr => Output::Stderr(data),
            Source::Terminal => Output::Pty(data),
        };
        let event: Oneof = DataEvent { output: Some(output) }.into();
        StartResponse { event: ProcessEvent { event: Some(event) }.into() }
    }

    #[test]
    fn the_hand_written_form_is_the_generated_one() {
        for source in [Source::Stdout, Source::Stderr, Source::Terminal] {
            for length in [0, 1, 2, 3, 100, 120, 127, 128, 16_370, 16_384, 65_536, 3_000_000] {
                let data: Vec<u8> = (0..length).map(|index: u32| (index % 251) as u8).collect();
                let chunk = Chunk { source, data: data.into() };
                let expected = generated(&chunk);
                let event = Event::Data(chunk);
                for codec in [CodecFormat::Json, CodecFormat::Proto] {
                    let ours = Encodable::<StartResponse>::encode(&event, codec).unwrap();
                    let theirs = Encodable::<StartResponse>::encode(&expected, codec).unwrap();
                    assert!(ours == theirs, "{source:?} {length} {codec:?}");
                }
            }
        }
    }
}
