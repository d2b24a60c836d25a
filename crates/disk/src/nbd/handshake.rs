//! From connecting to the first request: what the client may ask before it gets the disk.

use std::io::{Read, Write};

use super::transmission::MAX_REQUEST;
use super::wire::{self, Fields, info, option, reply};
use super::{Closed, NbdError};

/// The longest option that is looked at, in bytes. Names are at most 4096 long by the specification.
const MAX_OPTION: u32 = 8 * 1024;

/// The longest option that is read and thrown away so that its sender can be told; anything longer ends the connection.
const MAX_SKIPPED_OPTION: u32 = 64 * 1024;

/// How many options a client may send. QEMU needs four.
const MAX_OPTIONS: usize = 64;

/// What the client should prefer as unit, in bytes.
const PREFERRED_BLOCK: u32 = 4096;

pub(super) enum Outcome {
    /// The disk is the client's: requests follow.
    Transmission,
    Ended(Closed),
}

/// Runs the handshake for a disk of `size` bytes.
pub(super) fn negotiate<S: Read + Write>(stream: &mut S, size: u64) -> Result<Outcome, NbdError> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(wire::INIT_MAGIC.to_be_bytes());
    greeting.extend(wire::OPTION_MAGIC.to_be_bytes());
    greeting.extend((wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;

    let Some(flags) = wire::read_array_or_end(stream)?.map(u32::from_be_bytes) else {
        return Ok(Outcome::Ended(Closed::HungUp));
    };
    let known = u32::from(wire::FIXED_NEWSTYLE | wire::NO_ZEROES);
    if flags & !known != 0 {
        return Err(NbdError::Protocol(format!("unknown handshake flags {flags:#x}")));
    }
    if flags & u32::from(wire::FIXED_NEWSTYLE) == 0 {
        return Err(NbdError::Protocol("only the fixed newstyle handshake is supported".into()));
    }
    let no_zeroes = flags & u32::from(wire::NO_ZEROES) != 0;

    for _ in 0..MAX_OPTIONS {
        let Some(header) = wire::read_array_or_end::<16>(stream)? else {
            return Ok(Outcome::Ended(Closed::HungUp));
        };
        let [magic @ .., o0, o1, o2, o3, l0, l1, l2, l3] = header;
        let magic: [u8; 8] = magic;
        if u64::from_be_bytes(magic) != wire::OPTION_MAGIC {
            return Err(NbdError::Protocol("an option does not start with its magic number".into()));
        }
        let option = u32::from_be_bytes([o0, o1, o2, o3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let Some(data) = read_option_data(stream, length)? else {
            if option == option::EXPORT_NAME {
                return Err(NbdError::Protocol(format!("an export name of {length} bytes")));
            }
            answer(stream, option, reply::ERR_TOO_BIG, b"the option is too long")?;
            continue;
        };
        match option {
            // This option has no way to say no but to hang up.
            option::EXPORT_NAME if !data.is_empty() => {
                return Err(NbdError::Protocol("an unknown export was asked for".into()));
            }
            option::EXPORT_NAME => {
                let mut export = export_fields(size);
                export.extend(std::iter::repeat_n(0, if no_zeroes { 0 } else { 124 }));
                stream.write_all(&export)?;
                return Ok(Outcome::Transmission);
            }
            option::GO | option::INFO => {
                if describe(stream, option, &data, size)? && option == option::GO {
                    return Ok(Outcome::Transmission);
                }
            }
            option::LIST if data.is_empty() => {
                // One entry, whose name is the empty string.
                answer(stream, option, reply::SERVER, &0_u32.to_be_bytes())?;
                answer(stream, option, reply::ACK, &[])?;
            }
            option::LIST => answer(stream, option, reply::ERR_INVALID, b"LIST takes no data")?,
            option::ABORT => {
                // The client may have closed already; that it wanted to leave is what counts.
                let _ = answer(stream, option, reply::ACK, &[]);
                return Ok(Outcome::Ended(Closed::Disconnected));
            }
            _ => answer(stream, option, reply::ERR_UNSUP, b"the option is not supported")?,
        }
    }
    Err(NbdError::Protocol(format!("more than {MAX_OPTIONS} options")))
}

/// The data of an option, or `None` if there was too much, which is then gone from the stream.
fn read_option_data(stream: &mut impl Read, length: u32) -> Result<Option<Vec<u8>>, NbdError> {
    if length > MAX_SKIPPED_OPTION {
        return Err(NbdError::Protocol(format!("an option of {length} bytes")));
    }
    let mut data = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut data)?;
    if data.len() as u64 != u64::from(length) {
        return Err(NbdError::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok((length <= MAX_OPTION).then_some(data))
}

/// Answers INFO and GO; whether with yes.
fn describe(stream: &mut impl Write, option: u32, data: &[u8], size: u64) -> Result<bool, NbdError> {
    let Some(name) = requested_name(data) else {
        answer(stream, option, reply::ERR_INVALID, b"the lengths in the option do not add up")?;
        return Ok(false);
    };
    if !name.is_empty() {
        answer(stream, option, reply::ERR_UNKNOWN, b"the only export is the default one")?;
        return Ok(false);
    }
    // Both are sent whether asked for or not, which the specification allows: a client that learns the limits keeps them.
    let mut export = info::EXPORT.to_be_bytes().to_vec();
    export.extend(export_fields(size));
    answer(stream, option, reply::INFO, &export)?;
    let mut blocks = info::BLOCK_SIZE.to_be_bytes().to_vec();
    for size in [1, PREFERRED_BLOCK, MAX_REQUEST] {
        blocks.extend(size.to_be_bytes());
    }
    answer(stream, option, reply::INFO, &blocks)?;
    answer(stream, option, reply::ACK, &[])?;
    Ok(true)
}

/// The export name in the data of INFO and GO: a length, the name, a count, as many information types.
fn requested_name(data: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(data);
    let length = fields.u32()?;
    let name = fields.bytes(usize::try_from(length).ok()?)?;
    let count = fields.u16()?;
    (fields.0.len() == usize::from(count) * 2).then_some(name)
}

fn export_fields(size: u64) -> Vec<u8> {
    [&size.to_be_bytes()[..], &wire::TRANSMISSION_FLAGS.to_be_bytes()].concat()
}

fn answer(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(data.len()).map_err(std::io::Error::other)?;
    let mut message = Vec::with_capacity(20 + data.len());
    message.extend(wire::OPTION_REPLY_MAGIC.to_be_bytes());
    for field in [option, kind, length] {
        message.extend(field.to_be_bytes());
    }
    message.extend(data);
    stream.write_all(&message)
}
