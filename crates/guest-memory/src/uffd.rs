//! What the kernel's `linux/userfaultfd.h` offers to whoever answers faults.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// `UFFDIO`: the group of its requests.
const GROUP: u8 = 0xaa;
const UFFDIO_WAKE: Opcode = opcode::read::<Span>(GROUP, 0x02);
const UFFDIO_COPY: Opcode = opcode::read_write::<Copy>(GROUP, 0x03);
const UFFDIO_ZEROPAGE: Opcode = opcode::read_write::<ZeroPage>(GROUP, 0x04);
const UFFDIO_WRITEPROTECT: Opcode = opcode::read_write::<WriteProtect>(GROUP, 0x06);

/// `UFFDIO_COPY_MODE_WP`.
const COPY_MODE_WP: u64 = 1 << 1;

/// `struct uffdio_range`.
#[repr(C)]
struct Span {
    start: u64,
    length: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
struct Copy {
    destination: u64,
    source: u64,
    length: u64,
    mode: u64,
    copied: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct ZeroPage {
    range: Span,
    mode: u64,
    zeroed: i64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct WriteProtect {
    range: Span,
    mode: u64,
}

/// What became of a request to fill pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filled {
    /// So many bytes from the start are there now, at least one page. Fewer than asked for when the next page has one
    /// of the other answers: ask again for the rest.
    Bytes(u64),
    /// The first page was there already.
    Present,
    /// The mapping is being changed: nothing happens before the news of that is read.
    Changing,
    /// The process is no more.
    Gone,
}

/// Somebody waits, or something happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// A thread of the monitor cannot go on.
    Fault {
        /// Where.
        address: u64,
        /// Whether it wants to write.
        write: bool,
        /// Whether the page is there, but write-protected.
        protected: bool,
    },
    /// The monitor gives these addresses away. It goes on only when this was read.
    Removed(Range<u64>),
    /// Something that was not asked for, by its number.
    Unexpected(u8),
}

/// The size of `struct uffd_msg`.
const EVENT_BYTES: usize = 32;

/// How many events are read at once: one for each processor of a large guest, and more come at once only in storms.
pub(crate) const EVENTS_AT_ONCE: usize = 32;

/// A userfaultfd, non-blocking.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl Uffd {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// Fills the pages from `address` on with `bytes`. With `protect`, the first write to each counts as a change.
    pub(crate) fn copy(&self, address: u64, bytes: &[u8], protect: bool) -> io::Result<Filled> {
        let length = bytes.len() as u64;
        let mode = if protect { COPY_MODE_WP } else { 0 };
        let mut request =
            Copy { destination: address, source: bytes.as_ptr().addr() as u64, length, mode, copied: 0 };
        // SAFETY: the request takes this structure and reads `bytes`. It writes to another process's memory only, or
        // to a part of ours that its maker has registered for that.
        let result = unsafe { ioctl(&self.0, Updater::<UFFDIO_COPY, _>::new(&mut request)) };
        filled(result, request.copied)
    }

    /// Fills `length` bytes from `address` on with zeros. Not for huge pages, and always counts as a change.
    pub(crate) fn zero(&self, address: u64, length: u64) -> io::Result<Filled> {
        let mut request = ZeroPage { range: Span { start: address, length }, mode: 0, zeroed: 0 };
        // SAFETY: the request takes this structure. It writes to another process's memory only, or to a part of ours
        // that its maker has registered for that.
        let result = unsafe { ioctl(&self.0, Updater::<UFFDIO_ZEROPAGE, _>::new(&mut request)) };
        filled(result, request.zeroed)
    }

    /// Lets threads that wait for these pages look again.
    pub(crate) fn wake(&self, address: u64, length: u64) -> io::Result<()> {
        let mut request = Span { start: address, length };
        // SAFETY: the request takes this structure, and only wakes threads.
        Ok(unsafe { ioctl(&self.0, Updater::<UFFDIO_WAKE, _>::new(&mut request)) }?)
    }

    /// Allows writes to these pages from now on, and wakes who waits for that. False when the process is no more.
    pub(crate) fn unprotect(&self, address: u64, length: u64) -> io::Result<bool> {
        let mut request = WriteProtect { range: Span { start: address, length }, mode: 0 };
        // SAFETY: the request takes this structure, and changes only whether writes to the pages are noticed.
        match unsafe { ioctl(&self.0, Updater::<UFFDIO_WRITEPROTECT, _>::new(&mut request)) } {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends what happened to `events`, without waiting. The number of events.
    pub(crate) fn read(&self, events: &mut Vec<Event>) -> io::Result<usize> {
        let mut buffer = [0; EVENT_BYTES * EVENTS_AT_ONCE];
        let bytes = match rustix::io::read(&self.0, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            bytes => bytes?,
        };
        let (messages, _) = buffer[..bytes].as_chunks::<EVENT_BYTES>();
        events.extend(messages.iter().map(parse));
        Ok(messages.len())
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn filled(result: rustix::io::Result<()>, bytes: i64) -> io::Result<Filled> {
    match result {
        Ok(()) => Ok(Filled::Bytes(bytes.unsigned_abs())),
        Err(Errno::AGAIN) if bytes > 0 => Ok(Filled::Bytes(bytes.unsigned_abs())),
        Err(Errno::AGAIN) => Ok(Filled::Changing),
        Err(Errno::EXIST) => Ok(Filled::Present),
        Err(Errno::SRCH) => Ok(Filled::Gone),
        Err(error) => Err(error.into()),
    }
}

/// A `struct uffd_msg`.
fn parse(message: &[u8; EVENT_BYTES]) -> Event {
    const FAULT: u8 = 0x12;
    const FORK: u8 = 0x13;
    const REMOVE: u8 = 0x15;
    const UNMAP: u8 = 0x16;
    /// `UFFD_PAGEFAULT_FLAG_WRITE`.
    const WRITE: u64 = 1;
    /// `UFFD_PAGEFAULT_FLAG_WP`.
    const PROTECTED: u64 = 2;

    let [kind, ..] = *message;
    let (words, _) = message.as_chunks::<8>();
    let [_, first, second, _] = [0, 1, 2, 3].map(|index| u64::from_ne_bytes(words[index]));
    match kind {
        FAULT => {
            Event::Fault { address: second, write: first & WRITE != 0, protected: first & PROTECTED != 0 }
        }
        REMOVE | UNMAP => Event::Removed(first..second),
        FORK => {
            // The kernel has made a descriptor for us: the low half of the first word, as both are 32-bit numbers.
            let (halves, _) = message.as_chunks::<4>();
            let number = i32::from_ne_bytes(halves[2]);
            if number > 2 {
                // SAFETY: the message says that it was just made for us, and we look at the message once.
                drop(unsafe { OwnedFd::from_raw_fd(number) });
            }
            Event::Unexpected(FORK)
        }
        other => Event::Unexpected(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_kernels_numbers() {
        assert_eq!(UFFDIO_WAKE, 0x8010_aa02);
        assert_eq!(UFFDIO_COPY, 0xc028_aa03);
        assert_eq!(UFFDIO_ZEROPAGE, 0xc020_aa04);
        assert_eq!(UFFDIO_WRITEPROTECT, 0xc018_aa06);
    }

    #[test]
    fn reads_events() {
        let mut message = [0; EVENT_BYTES];
        message[0] = 0x12;
        message[8] = 1;
        message[16..24].copy_from_slice(&0x1234_5678_u64.to_ne_bytes());
        assert!(matches!(
            parse(&message),
            Event::Fault { address: 0x1234_5678, write: true, protected: false }
        ));
        message[0] = 0x15;
        assert!(matches!(parse(&message), Event::Removed(range) if range == (1..0x1234_5678)));
        message[0] = 0x14;
        assert!(matches!(parse(&message), Event::Unexpected(0x14)));
    }
}
