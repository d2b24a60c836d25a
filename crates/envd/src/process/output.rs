//! Reads what a process prints.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

use super::buffer::{Buffer, COPY_BYTES};
use super::event::{Chunk, Source};
use super::hub::Hub;
use crate::push::LineLog;

/// Pieces to read before others get their turn. All of the daemon shares one thread.
const BURST: usize = 8;

/// One output of a process: our end of a pipe, or the terminal.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) source: Source,
    /// Does not block.
    pub(super) file: Arc<AsyncFd<OwnedFd>>,
}

impl Output {
    /// Passes everything on until the end of the output; after `drain` is cancelled, only until there is nothing to read
    /// at the moment.
    pub(super) async fn pump(self, hub: &Hub, mut log: LineLog, drain: &CancellationToken) {
        self.pass_on(hub, &mut log, drain).await;
        log.finish();
    }

    async fn pass_on(&self, hub: &Hub, log: &mut LineLog, drain: &CancellationToken) {
        let mut pieces = 0;
        loop {
            if pieces == BURST {
                pieces = 0;
                tokio::task::yield_now().await;
            }
            pieces += 1;
            let mut buffer = Buffer::take();
            let length = rustix::io::read(self.file.get_ref(), spare_capacity(buffer.contents()));
            match length {
                Ok(0) => return,
                Ok(length) => {
                    log.feed(buffer.as_ref());
                    let data = if length <= COPY_BYTES {
                        let copy = Bytes::copy_from_slice(buffer.as_ref());
                        drop(buffer);
                        copy
                    } else {
                        buffer.freeze()
                    };
                    hub.publish(Chunk { source: self.source, data }).await;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if drain.is_cancelled() {
                        return;
                    }
                    // An idle process holds no buffer.
                    drop(buffer);
                    tokio::select! {
                        ready = self.readable() => if ready.is_err() { return },
                        () = drain.cancelled() => {}
                    }
                }
                // A terminal that nobody has open any more says EIO. Other errors cannot be helped either.
                Err(_) => return,
            }
        }
    }

    /// Waits until there is something to read. May be wrong, so the next read may find nothing.
    async fn readable(&self) -> io::Result<()> {
        let mut guard = self.file.readable().await?;
        // The read before said that there is nothing; forget what was known before that.
        guard.clear_ready();
        drop(guard);
        Ok(())
    }
}
