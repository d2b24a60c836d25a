//! Requests and their replies, one after the other in the order in which they came.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use super::wire::{self, Fields, command, error};
use super::{Closed, NbdError};
use crate::device::{BlockDevice, check_range};

/// The most data one request may carry, in bytes; told to the client in the handshake. It bounds our memory.
pub const MAX_REQUEST: u32 = 32 << 20;

/// The buffer that stays allocated between requests, in bytes. A guest's requests are seldom larger.
const KEPT_BUFFER: usize = 1 << 20;

struct Request {
    flags: u16,
    command: u16,
    cookie: [u8; 8],
    offset: u64,
    length: u32,
}

impl Request {
    fn parse(header: &[u8; 28]) -> Option<Self> {
        let mut fields = Fields(header);
        if fields.u32()? != wire::REQUEST_MAGIC {
            return None;
        }
        Some(Self {
            flags: fields.u16()?,
            command: fields.u16()?,
            cookie: fields.array()?,
            offset: u64::from_be_bytes(fields.array()?),
            length: fields.u32()?,
        })
    }

    /// The flags that the command may have.
    fn allowed_flags(&self) -> u16 {
        match self.command {
            command::WRITE_ZEROES => command::FLAG_FUA | command::FLAG_NO_HOLE,
            // The specification wants FUA accepted everywhere once it is offered.
            _ => command::FLAG_FUA,
        }
    }
}

pub(super) fn run<S: Read + Write>(stream: &mut S, device: &dyn BlockDevice) -> Result<Closed, NbdError> {
    let mut buffer = Vec::new();
    let mut failures = 0;
    loop {
        let Some(header) = wire::read_array_or_end(stream)? else {
            return Ok(Closed::HungUp);
        };
        let request = Request::parse(&header)
            .ok_or_else(|| NbdError::Protocol("a request does not start with its magic number".into()))?;
        if request.command == command::DISCONNECT {
            return Ok(Closed::Disconnected);
        }
        let payload = fill_payload(stream, &request, &mut buffer)?;
        let (code, data) = match execute(device, &request, payload) {
            Ok(data) => (error::NONE, data),
            Err(failure) => {
                failures += 1;
                failure.log(&request, failures);
                (failure.code, &[][..])
            }
        };
        match send_reply(stream, code, request.cookie, data) {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                return Ok(Closed::HungUp);
            }
            sent => sent?,
        }
        if buffer.capacity() > KEPT_BUFFER {
            buffer = Vec::new();
        }
    }
}

/// Makes `buffer` as long as the request's data and, for a write, reads it from the stream.
fn fill_payload<'b>(
    stream: &mut impl Read,
    request: &Request,
    buffer: &'b mut Vec<u8>,
) -> Result<&'b mut [u8], NbdError> {
    let carries_data = match request.command {
        command::WRITE => true,
        command::READ => false,
        _ => return Ok(&mut []),
    };
    if request.length > MAX_REQUEST {
        if carries_data {
            // Whatever comes next, it is not worth reading to stay in step.
            return Err(NbdError::Protocol(format!("a write of {} bytes", request.length)));
        }
        return Ok(&mut []); // `execute` refuses it
    }
    let length = usize::try_from(request.length).map_err(io::Error::other)?;
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let payload = &mut buffer[..length];
    if carries_data {
        stream.read_exact(payload)?;
    }
    Ok(payload)
}

/// What the client is told about a request that failed.
struct Failure {
    code: u32,
    /// What the device said, if the request got that far.
    cause: Option<io::Error>,
}

impl Failure {
    fn refused(code: u32) -> Self {
        Self { code, cause: None }
    }

    fn device(cause: io::Error) -> Self {
        let code = match cause.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => error::NO_SPACE,
            ErrorKind::InvalidInput => error::INVALID,
            _ => error::IO,
        };
        Self { code, cause: Some(cause) }
    }

    /// Writes the log, where the first failure is news, and the thousandth, which a guest can cause at will, is not.
    fn log(&self, request: &Request, failures: u64) {
        if failures.is_power_of_two() {
            let Request { command, offset, length, .. } = request;
            let cause = self.cause.as_ref().map_or_else(|| "refused".into(), ToString::to_string);
            tracing::warn!(
                command,
                offset,
                length,
                code = self.code,
                failures,
                cause,
                "a disk request failed"
            );
        }
    }
}

/// Does what the request says and returns the data to send.
fn execute<'b>(
    device: &dyn BlockDevice,
    request: &Request,
    payload: &'b mut [u8],
) -> Result<&'b [u8], Failure> {
    let &Request { offset, length, .. } = request;
    if request.flags & !request.allowed_flags() != 0 {
        return Err(Failure::refused(error::INVALID));
    }
    if request.command == command::READ && length > MAX_REQUEST {
        return Err(Failure::refused(error::OVERFLOW));
    }
    if request.command != command::FLUSH && check_range(device.size(), offset, u64::from(length)).is_err() {
        return Err(Failure::refused(match request.command {
            // As the specification says for what would grow the disk.
            command::WRITE | command::WRITE_ZEROES => error::NO_SPACE,
            _ => error::INVALID,
        }));
    }
    let done = match request.command {
        command::READ => {
            device.read_at(payload, offset).map_err(Failure::device)?;
            return Ok(payload);
        }
        command::WRITE => device.write_at(payload, offset),
        command::WRITE_ZEROES => device.write_zeroes(offset, u64::from(length)),
        command::TRIM => device.trim(offset, u64::from(length)),
        command::FLUSH => device.flush(),
        _ => return Err(Failure::refused(error::INVALID)),
    };
    let synced = match done {
        Ok(()) if request.flags & command::FLAG_FUA != 0 && request.command != command::FLUSH => {
            device.flush()
        }
        other => other,
    };
    synced.map(|()| &[][..]).map_err(Failure::device)
}

fn send_reply(stream: &mut impl Write, code: u32, cookie: [u8; 8], data: &[u8]) -> io::Result<()> {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&wire::REPLY_MAGIC.to_be_bytes());
    header[4..8].copy_from_slice(&code.to_be_bytes());
    header[8..].copy_from_slice(&cookie);
    let mut slices = &mut [IoSlice::new(&header), IoSlice::new(data)][..];
    while !slices.is_empty() {
        match stream.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(sent) => IoSlice::advance_slices(&mut slices, sent),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
