//! Who may start, and when.
//!
//! Room (sandboxes, memory) is taken before anything is made and given back when everything is released. A turn to boot
//! is waited for in a bounded queue, because a boot is mostly computation and twice as many at once are half as fast.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::{FleetError, MiB};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

#[derive(Debug, Default)]
struct Taken {
    sandboxes: usize,
    memory: u64,
}

/// The limits of one node and what is taken of them.
#[derive(Debug)]
pub(crate) struct Admission {
    taken: Mutex<Taken>,
    max_sandboxes: usize,
    max_memory: u64,
    queue: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    patience: Duration,
}

/// Room for one sandbox; given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    admission: Arc<Admission>,
    memory: u64,
}

/// The right to boot now; given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _queue: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(config: &crate::NodeConfig) -> Arc<Self> {
        Arc::new(Self {
            taken: Mutex::default(),
            max_sandboxes: config.max_sandboxes,
            max_memory: config.memory.bytes(),
            queue: Arc::new(Semaphore::new(config.start_queue + config.concurrent_starts)),
            turns: Arc::new(Semaphore::new(config.concurrent_starts)),
            patience: config.start_patience,
        })
    }

    /// Takes room for a sandbox with this much memory.
    pub(crate) fn room(self: &Arc<Self>, memory: MiB) -> Result<Room, FleetError> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = memory.bytes();
        if taken.sandboxes >= self.max_sandboxes {
            let text =
                format!("this host runs its {} sandboxes; kill one or try again later", self.max_sandboxes);
            return Err(FleetError::NoCapacity(text));
        }
        // What runs may be more than the limit: see `room_for_running`.
        let free = self.max_memory.saturating_sub(taken.memory);
        if bytes > free {
            let free = free >> 20;
            let text = format!(
                "{memory} of guest memory are wanted and {free} MiB are free on this host; try again later"
            );
            return Err(FleetError::NoCapacity(text));
        }
        taken.sandboxes += 1;
        taken.memory += bytes;
        Ok(Room { admission: Arc::clone(self), memory: bytes })
    }

    /// Takes room for a sandbox that runs already: a restart must not end it because a limit was lowered.
    pub(crate) fn room_for_running(self: &Arc<Self>, memory: MiB) -> Room {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.sandboxes += 1;
        taken.memory = taken.memory.saturating_add(memory.bytes());
        Room { admission: Arc::clone(self), memory: memory.bytes() }
    }

    /// Waits for a turn to boot.
    pub(crate) async fn turn(&self) -> Result<Turn, FleetError> {
        let busy = |text| FleetError::NoCapacity(text);
        let stopping = || busy("this host is shutting down".into());
        let queue = Arc::clone(&self.queue).try_acquire_owned().map_err(|error| match error {
            TryAcquireError::Closed => stopping(),
            TryAcquireError::NoPermits => {
                busy("too many sandboxes wait to be started on this host; try again later".into())
            }
        })?;
        let turn = tokio::time::timeout(self.patience, Arc::clone(&self.turns).acquire_owned())
            .await
            .map_err(|_| {
                busy(format!("waited {:?} for a turn to start on this host; try again later", self.patience))
            })?
            .map_err(|_| stopping())?;
        Ok(Turn { _queue: queue, _turn: turn })
    }

    /// Refuses whoever waits for a turn and whoever comes from now on.
    pub(crate) fn close(&self) {
        self.queue.close();
        self.turns.close();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut taken = self.admission.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.sandboxes -= 1;
        taken.memory -= self.memory;
    }
}
