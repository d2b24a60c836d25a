//! How a monitor hands over its guest's memory.
//!
//! One message on a unix stream socket, as Firecracker sends it: a JSON array of regions, and beside it the userfaultfd,
//! followed by the memfd if the memory is one. Whoever is on the other end may be broken or hostile, so everything is
//! bounded, and whatever was received is closed on every error path because it is owned from the first moment on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat, readlinkat};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::message;
use crate::region::{self, Region, RegionError};

/// The most that a monitor may say, in bytes: some eight regions, where two are usual.
pub const MAX_JSON_BYTES: usize = 1024;

/// The descriptors of a message: the userfaultfd, and the memfd if there is one.
pub const MAX_DESCRIPTORS: usize = 2;

/// Guest memory that a monitor has handed over.
#[derive(Debug)]
pub struct Handshake {
    /// Answers faults in the regions. Non-blocking.
    pub uffd: OwnedFd,
    /// The memory itself, when it is a memfd. Who has made the memory should use its own handle of it: a monitor may
    /// send another one.
    pub memfd: Option<OwnedFd>,
    /// Where the memory is: not empty, aligned, not overlapping, inside the memfd.
    pub regions: Vec<Region>,
    /// The monitor's process, as the kernel says.
    pub pid: u32,
}

/// A monitor's memory could not be taken over. The monitor has to be ended: it waits for pages that nobody brings.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It said nothing, or not all, in time.
    #[error("the monitor did not hand over its memory in time")]
    TimedOut,
    /// It closed the connection first.
    #[error("the monitor closed the connection before it handed over its memory")]
    Closed,
    /// More text than any monitor needs.
    #[error("the monitor sent more than {MAX_JSON_BYTES} bytes")]
    TooLong,
    /// No descriptor.
    #[error("the monitor sent no userfaultfd")]
    NoDescriptors,
    /// More descriptors than a userfaultfd and a memfd.
    #[error("the monitor sent more than {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    /// Descriptors were lost on the way: there were too many, or this process has no room for them.
    #[error(
        "descriptors that the monitor sent were lost: too many of them, or this process has too many files open"
    )]
    LostDescriptors,
    /// The first descriptor is something else.
    #[error("the first descriptor that the monitor sent is not a userfaultfd but {0}")]
    NotUserfaultfd(String),
    /// The second descriptor is something else.
    #[error("the second descriptor that the monitor sent is not a memfd but {0}")]
    NotMemfd(String),
    /// What it said about its memory cannot be.
    #[error("the monitor's memory: {0}")]
    Regions(#[from] RegionError),
    /// The system refused.
    #[error("receiving the monitor's memory: {0}")]
    Io(#[from] io::Error),
}

impl From<rustix::io::Errno> for HandshakeError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Two connected sockets: ours, which also learns who writes to it, and one for the monitor to inherit.
///
/// # Errors
/// When the process has too many descriptors.
pub fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // Of a pair, the peer's credentials are ours. The sender's come with what it sends, if it is asked for before.
    set_socket_passcred(&ours, true)?;
    Ok((ours.into(), theirs))
}

/// Waits until `deadline` for a monitor to hand over its memory, and closes the connection, whatever comes of it.
///
/// Blocks its thread.
///
/// # Errors
/// When nothing, not enough or something wrong comes. Everything that was received is closed then.
#[expect(clippy::needless_pass_by_value, reason = "the connection ends here")]
pub fn receive(stream: UnixStream, deadline: Instant) -> Result<Handshake, HandshakeError> {
    let mut received = Received::default();
    // One byte more than allowed, to notice it.
    let mut text = [0; MAX_JSON_BYTES + 1];
    let mut length = 0;
    let regions = loop {
        wait(&stream, deadline)?;
        match received.message(&stream, &mut text[length..])? {
            None => continue,
            Some(0) => return Err(HandshakeError::Closed),
            Some(bytes) => length += bytes,
        }
        if length > MAX_JSON_BYTES {
            return Err(HandshakeError::TooLong);
        }
        if let Some(regions) = region::parse(&text[..length]) {
            break regions?;
        }
    };
    let pid = match received.pid {
        Some(pid) => pid,
        None => message::peer(&stream)?,
    };
    let mut descriptors = received.descriptors.into_iter();
    let uffd = descriptors.next().ok_or(HandshakeError::NoDescriptors)?;
    let memfd = descriptors.next();

    let name = name(&uffd)?;
    if name != "anon_inode:[userfaultfd]" {
        return Err(HandshakeError::NotUserfaultfd(name));
    }
    // A blocking one could not be waited for together with anything else.
    fcntl_setfl(&uffd, fcntl_getfl(&uffd)? | OFlags::NONBLOCK)?;
    if let Some(memfd) = &memfd {
        check_memfd(memfd, &regions)?;
    }
    Ok(Handshake { uffd, memfd, regions, pid })
}

/// What came so far.
#[derive(Default)]
struct Received {
    descriptors: Vec<OwnedFd>,
    pid: Option<u32>,
}

impl Received {
    /// Reads once. The number of bytes, none at the end of the stream; nothing when there is nothing after all.
    fn message(&mut self, stream: &UnixStream, text: &mut [u8]) -> Result<Option<usize>, HandshakeError> {
        let message = match message::receive(stream, text) {
            // Somebody who shares the socket was faster.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Some(0)),
            message => message?,
        };
        self.descriptors.extend(message.descriptors);
        self.pid = message.sender.or(self.pid);
        if message.truncated {
            return Err(HandshakeError::LostDescriptors);
        }
        if self.descriptors.len() > MAX_DESCRIPTORS {
            return Err(HandshakeError::TooManyDescriptors);
        }
        Ok(Some(message.bytes))
    }
}

/// Waits until there is something to receive.
pub(crate) fn wait(socket: impl AsFd, deadline: Instant) -> Result<(), HandshakeError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timespec(left))) {
            Ok(0) if left.is_zero() => return Err(HandshakeError::TimedOut),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// What the kernel calls an open file.
fn name(file: &OwnedFd) -> Result<String, HandshakeError> {
    use std::os::fd::AsRawFd;
    let link = readlinkat(rustix::fs::CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), Vec::new())?;
    Ok(link.to_string_lossy().into_owned())
}

fn check_memfd(memfd: &OwnedFd, regions: &[Region]) -> Result<(), HandshakeError> {
    let name = name(memfd)?;
    if !name.starts_with("/memfd:") {
        return Err(HandshakeError::NotMemfd(name));
    }
    let size = u64::try_from(fstat(memfd)?.st_size).unwrap_or(0);
    Ok(region::check_inside(regions, size)?)
}
