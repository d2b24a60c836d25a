//! Writing to stable storage while more is coming, so that little is left to do in the end.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// How much has to come before it is worth it, in bytes.
const STEP: u64 = 32 << 20;

/// Syncs a file from a thread of its own whenever much was written to it. The last sync is not its business.
pub(crate) struct Writeback {
    next: u64,
    thread: Option<(SyncSender<()>, JoinHandle<io::Result<()>>)>,
}

impl Writeback {
    pub(crate) fn new() -> Self {
        Self { next: STEP, thread: None }
    }

    /// Says how many bytes `file` has by now. Never waits.
    pub(crate) fn written(&mut self, file: &File, bytes: u64) -> io::Result<()> {
        if bytes < self.next {
            return Ok(());
        }
        self.next = bytes + STEP;
        if self.thread.is_none() {
            let file = file.try_clone()?;
            let (sender, receiver) = sync_channel(1);
            let sync = move || receiver.iter().try_for_each(|()| file.sync_data());
            let thread =
                std::thread::Builder::new().name("writeback".into()).stack_size(64 << 10).spawn(sync)?;
            self.thread = Some((sender, thread));
        }
        match self.thread.as_ref().map(|(sender, _)| sender.try_send(())) {
            Some(Err(TrySendError::Disconnected(()))) => self.finish(),
            // One that is waiting covers this, too.
            _ => Ok(()),
        }
    }

    /// Waits for the thread. The kernel reports a failed write once, so if the thread was told, nobody else will be.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let Some((sender, thread)) = self.thread.take() else { return Ok(()) };
        drop(sender);
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes back panicked")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_reported() {
        let file = tempfile::tempfile().unwrap();
        let mut good = Writeback::new();
        for bytes in (0..10 * STEP).step_by(1 << 20) {
            good.written(&file, bytes).unwrap();
        }
        good.finish().unwrap();
        good.finish().unwrap();

        // A pipe cannot be synced.
        let (_reader, pipe) = io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        let mut bad = Writeback::new();
        bad.written(&pipe, STEP).unwrap();
        assert_eq!(bad.finish().unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
