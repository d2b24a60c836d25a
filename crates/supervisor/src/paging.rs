//! Bringing the memory of a machine that goes on from a build, page by page as it is touched.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use artifacts::Image;
use build::{Pages, ReadError};
use guest_memory::{Options, PageServer, PageServerError, handshake};
use rustix::fs::{MemfdFlags, OFlags, memfd_create, open};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use vmm::Preload;

/// A VMM hands over its memory before it is in control; what is left to wait for is that we read it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a process gets a userfaultfd from without being privileged itself.
const USERFAULTFD: &str = "/dev/userfaultfd";

/// What makes the VMM hand over its memory, and our end of the socket.
pub(crate) fn preload(library: &[u8]) -> Result<(Preload, UnixStream), String> {
    if library.is_empty() {
        return Err(
            "this binary was built without the library that hands over a VMM's memory; build it with \
                    `cargo xtask up`"
                .into(),
        );
    }
    let library = in_memory(library).map_err(|error| format!("making the preloaded library: {error}"))?;
    let (ours, socket) = handshake::pair().map_err(|error| format!("making the memory's socket: {error}"))?;
    let userfaultfd = open(USERFAULTFD, OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty());
    Ok((Preload { library, socket, userfaultfd: userfaultfd.ok() }, ours))
}

/// A file that has no name, which a VMM of any user may map.
fn in_memory(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = std::fs::File::from(memfd_create("uffd-preload", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file.into())
}

/// Takes over the memory of the VMM `pid` and serves it from the build. Its server failing ends the VMM: the guest must
/// neither wait for ever nor go on with zeros. When that is because the memory is lost, `lost` says so before.
pub(crate) async fn serve(
    socket: UnixStream,
    memory: &Arc<Image>,
    pid: i32,
    lost: Arc<OnceLock<String>>,
) -> Result<PageServer, String> {
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let received = tokio::task::spawn_blocking(move || handshake::receive(socket, deadline)).await;
    let handshake = received.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let vmm = Pid::from_raw(pid).ok_or("the VMM has no process")?;
    let vmm = pidfd_open(vmm, PidfdFlags::empty()).map_err(|error| format!("opening the VMM: {error}"))?;
    let options = Options {
        on_failure: Box::new(move |error| {
            tracing::error!(%error, "the page server failed: ending the VMM");
            if is_loss(&error) {
                // Nobody else sets it.
                let _ = lost.set(error.to_string());
            }
            if let Err(error) = pidfd_send_signal(&vmm, Signal::KILL) {
                tracing::warn!(%error, "ending the VMM");
            }
        }),
        record: true,
    };
    let source = Arc::clone(memory) as Arc<dyn Pages>;
    PageServer::start(handshake, source, options).map_err(|error| error.to_string())
}

/// Whether a page is not there any more, or is not what was written.
fn is_loss(error: &PageServerError) -> bool {
    match error {
        PageServerError::Source { source: ReadError::Damaged { .. }, .. } => true,
        PageServerError::Source { source: ReadError::Io { source, .. }, .. } => artifacts::is_loss(source),
        _ => false,
    }
}
