//! Our side of a second process that stands in for a monitor.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use build::{PAGE_BYTES, Pages};
use guest_memory::handshake::{self, Handshake};
use guest_memory::{GuestMemory, Options, PageServer, PageServerError};

use super::model::{Image, PAGE};
use super::preload;

/// Nothing here takes this long.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// How the second process gets its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// From our memfd, handed over by the preload library: QEMU.
    Preload,
    /// From nowhere, handed over without a memfd or tracking of writes: stock Firecracker.
    Anonymous,
    /// The same, but each first write to a page is a fault.
    Protected,
    /// From our memfd, served by nobody.
    Unserved,
}

/// What the preload library is told.
pub(crate) struct Preload {
    pub(crate) environment: String,
    /// Whom it runs as.
    pub(crate) user: u32,
    /// What else it inherits.
    pub(crate) inherited: Vec<OwnedFd>,
}

/// The second process.
pub(crate) struct Monitor {
    child: Child,
    control: BufReader<UnixStream>,
    pub(crate) memory: OwnedFd,
}

impl Monitor {
    /// A process that maps `pages` pages, and what it hands over.
    pub(crate) fn start(kind: Kind, pages: u64) -> (Self, Handshake) {
        let memory = GuestMemory::create(pages * PAGE_BYTES).unwrap().into_fd();
        let (ours, theirs) = handshake::pair().unwrap();
        let monitor = Self::spawn(kind, memory, pages * PAGE_BYTES, PAGE_BYTES, &theirs);
        drop(theirs);
        let handshake = handshake::receive(ours, Instant::now() + LONG).unwrap();
        assert_eq!(handshake.pid, monitor.child.id());
        assert_eq!(handshake.memfd.is_some(), kind == Kind::Preload);
        (monitor, handshake)
    }

    /// A process whose memory is served from `image`, and where the server says why it failed.
    pub(crate) fn served(
        kind: Kind,
        image: &Arc<Image>,
        record: bool,
    ) -> (Self, PageServer, Receiver<PageServerError>) {
        let (monitor, handshake) = Self::start(kind, image.pages());
        let (failed, failure) = mpsc::channel();
        let on_failure = Box::new(move |error| failed.send(error).unwrap());
        let options = Options { on_failure, record };
        let server = PageServer::start(handshake, Arc::clone(image) as _, options).unwrap();
        (monitor, server, failure)
    }

    /// A process that maps `memory`, of `size` bytes, and hands it over through `socket`.
    pub(crate) fn spawn(kind: Kind, memory: OwnedFd, size: u64, page_size: u64, socket: &OwnedFd) -> Self {
        let inode = rustix::fs::fstat(&memory).unwrap().st_ino;
        let socket_number = socket.as_raw_fd();
        let preload = (kind == Kind::Preload).then(|| Preload {
            environment: format!("{socket_number}:-1:{inode}"),
            user: 0,
            inherited: Vec::new(),
        });
        Self::spawn_with(kind, memory, size, page_size, socket, preload.as_ref())
    }

    /// The same, with the preload library told this, if anything.
    pub(crate) fn spawn_with(
        kind: Kind,
        memory: OwnedFd,
        size: u64,
        page_size: u64,
        socket: &OwnedFd,
        preload: Option<&Preload>,
    ) -> Self {
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(LONG)).unwrap();
        let program = File::open("/proc/self/exe").unwrap();
        let library = preload.is_some().then(|| File::open(preload::library()).unwrap());
        let [theirs_number, memory_number, socket_number] =
            [theirs.as_raw_fd(), memory.as_raw_fd(), socket.as_raw_fd()];
        let mut numbers = vec![theirs_number, memory_number, socket_number];

        // By its descriptor: whoever it runs as may not be able to enter our directories.
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command.args(["peer", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(
            super::peer::ENVIRONMENT,
            format!("{kind:?}:{theirs_number}:{memory_number}:{socket_number}:{size}:{page_size}"),
        );
        if let (Some(preload), Some(library)) = (preload, &library) {
            command.env("LD_PRELOAD", format!("/proc/self/fd/{}", library.as_raw_fd()));
            command.env("COLDFRAME_UFFD", &preload.environment);
            command.uid(preload.user).gid(preload.user);
            numbers.push(library.as_raw_fd());
            numbers.extend(preload.inherited.iter().map(AsRawFd::as_raw_fd));
        }
        numbers.push(program.as_raw_fd());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // SAFETY: it only changes flags of the child's descriptors, which needs neither memory nor locks.
        unsafe {
            command.pre_exec(move || {
                for number in &numbers {
                    if libc::fcntl(*number, libc::F_SETFD, 0) != 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        Self { child, control: BufReader::new(control), memory }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for something without waiting for it.
    pub(crate) fn ask(&mut self, command: &str) {
        writeln!(self.control.get_mut(), "{command}").unwrap();
    }

    /// Waits for the answer to what was asked for.
    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.control.read_line(&mut line).expect("an answer in time");
        line.trim().to_owned()
    }

    /// Does something, which has to work.
    pub(crate) fn run(&mut self, command: &str) {
        self.ask(command);
        assert_eq!(self.answer(), "ok", "{command}");
    }

    /// Reads a page through the mapping.
    pub(crate) fn read(&mut self, page: u64) -> [u8; PAGE] {
        self.ask(&format!("read {page}"));
        let mut bytes = [0; PAGE];
        self.control.read_exact(&mut bytes).expect("a page in time");
        bytes
    }

    /// Whether what was asked for is not answered for so long.
    pub(crate) fn silent_for(&mut self, time: Duration) -> bool {
        self.control.get_mut().set_read_timeout(Some(time)).unwrap();
        let silent = self.control.fill_buf().is_err();
        self.control.get_mut().set_read_timeout(Some(LONG)).unwrap();
        silent
    }

    /// Ends it and waits until it is gone.
    pub(crate) fn kill(mut self) -> Duration {
        let begin = Instant::now();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        begin.elapsed()
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn memory(&self) -> impl AsFd {
        self.memory.as_fd()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
