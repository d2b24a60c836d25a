//! A process that touches memory, and how it is told to: each line of its standard input is a command.
//!
//! | command | answer |
//! |---|---|
//! | `read N` | N times 8 bytes: how long the first touch of each of the first N pages took, in nanoseconds |
//! | `write STEP` | 8 bytes, 0: every STEPth page was written to |

use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use build::PAGE_BYTES;
use command_fds::CommandFdExt;
use guest_memory::GuestMemory;
use guest_memory::floor::Touched;
use guest_memory::handshake::{self, Handshake};
use sys::child::{ChildSetup, prepare};

use super::{handover, image};

/// It only has to start.
const PATIENCE: Duration = Duration::from_secs(10);
/// Odd, so that it visits every page of a power of two, in no order that hardware or kernel could guess.
const STRIDE: u64 = 7919 * 2 + 1;

/// The process itself.
pub(super) fn run(memfd: i32, pages: u64) -> Result<(), String> {
    let memfd = sys::inherited::take_fd(memfd).map_err(|error| format!("the memory: {error}"))?;
    let memory = Touched::map(memfd, pages).map_err(|error| format!("mapping the memory: {error}"))?;
    let mut output = io::stdout().lock();
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let (command, number) = line.split_once(' ').ok_or("no command")?;
        let number: u64 = number.parse().map_err(|_| "no number")?;
        let answer = match command {
            "read" => read(&memory, number)?,
            _ => write(&memory, pages, number),
        };
        output.write_all(&answer).and_then(|()| output.flush()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn read(memory: &Touched, pages: u64) -> Result<Vec<u8>, String> {
    let mut times = Vec::new();
    for index in 0..pages {
        let page = index.wrapping_mul(STRIDE) % pages;
        let (word, time) = memory.read(page);
        if word != image::word(page) {
            return Err(format!("page {page} has {word:#x}"));
        }
        times.extend(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
    }
    Ok(times)
}

fn write(memory: &Touched, pages: u64, step: u64) -> Vec<u8> {
    for page in (0..pages).step_by(usize::try_from(step).unwrap_or(1).max(1)) {
        memory.write(page, !image::word(page));
    }
    vec![0; 8]
}

/// Such a process, from outside. Ended when dropped.
pub(super) struct Toucher {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    pub(super) memory: GuestMemory,
}

impl Toucher {
    /// Starts one that has mapped `pages` pages, and what it handed over.
    pub(super) fn start(pages: u64) -> Result<(Self, Handshake), String> {
        let (toucher, socket) = Self::spawn(pages).map_err(|error| format!("starting a process: {error}"))?;
        let handshake = handshake::receive(socket, Instant::now() + PATIENCE);
        let handshake = handshake.map_err(|error| error.to_string())?;
        Ok((toucher, handshake))
    }

    fn spawn(pages: u64) -> io::Result<(Self, UnixStream)> {
        let memory = GuestMemory::create(pages * PAGE_BYTES)?;
        let memfd = memory.try_clone()?.into_fd();
        let (ours, socket) = handshake::pair()?;
        let library = handover::library().map_err(io::Error::other)?;
        let device = handover::device();
        let inode = rustix::fs::fstat(&memfd)?.st_ino;
        let number = |fd: &OwnedFd| fd.as_raw_fd();
        let asked = format!("{}:{}:{inode}", number(&socket), device.as_ref().map_or(-1, number));

        let mut command = Command::new("/proc/self/exe");
        command
            .args(["bench", "touch", &number(&memfd).to_string(), &pages.to_string()])
            .env("LD_PRELOAD", format!("/proc/self/fd/{}", number(&library)))
            .env("COLDFRAME_UFFD", asked)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // It may wait for a page that nobody brings any more.
        prepare(&mut command, ChildSetup { die_with_parent: true, ..ChildSetup::default() });
        command.preserved_fds([memfd, socket, library].into_iter().chain(device).collect());
        let mut child = command.spawn()?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok((Self { child, input, output, memory }, ours)),
            _ => Err(io::Error::other("no pipes")),
        }
    }

    /// Has the first `pages` pages touched, a power of two of them; how long each took.
    pub(super) fn read(&mut self, pages: u64) -> Result<Vec<Duration>, String> {
        self.tell("read", pages, pages).map(|times| times.into_iter().map(Duration::from_nanos).collect())
    }

    /// Has every `step`th page written to.
    pub(super) fn write(&mut self, step: u64) -> Result<(), String> {
        self.tell("write", step, 1).map(drop)
    }

    fn tell(&mut self, command: &str, number: u64, words: u64) -> Result<Vec<u64>, String> {
        let mut answer = vec![0; usize::try_from(words * 8).map_err(|error| error.to_string())?];
        writeln!(self.input, "{command} {number}")
            .and_then(|()| self.output.read_exact(&mut answer))
            .map_err(|error| format!("the process that touches memory has failed: {error}"))?;
        Ok(answer.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

impl Drop for Toucher {
    fn drop(&mut self) {
        // Nothing to do about one that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
