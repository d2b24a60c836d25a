//! Network slots, made ahead of need.
//!
//! Making a namespace with its links and filter takes tens of milliseconds; a create takes one that is ready. A slot is
//! used by one sandbox and then destroyed, so that no address, connection or neighbour of the last tenant is left for
//! the next.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use network::{Host, Slot};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Indices of one node: more slots than a host can run sandboxes.
pub(crate) const MAX_SLOTS: u16 = 4096;
/// After a slot could not be made: the cause (out of memory, a foreign firewall) rarely goes away at once.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Slot>,
    /// Indices that are in use, ready, being made or being destroyed.
    taken: BTreeSet<u16>,
}

/// The warm pool.
#[derive(Debug)]
pub(crate) struct Slots {
    host: Arc<Host>,
    state: Mutex<State>,
    ahead: usize,
    /// A slot became ready.
    filled: Notify,
    /// A slot was taken or an index became free.
    wanted: Notify,
}

impl Slots {
    /// A pool that considers `in_use` as taken. Fills when [`Slots::keep_filled`] runs. At least one is made ahead, or
    /// nobody could ever take any.
    pub(crate) fn new(host: Arc<Host>, ahead: usize, in_use: &HashSet<u16>) -> Self {
        let state = State { ready: VecDeque::new(), taken: in_use.iter().copied().collect() };
        Self {
            host,
            state: Mutex::new(state),
            ahead: ahead.max(1),
            filled: Notify::new(),
            wanted: Notify::new(),
        }
    }

    /// A slot nobody uses; waits when there is none yet. Its caller gives it back with [`Slots::destroy`].
    pub(crate) async fn take(&self) -> Slot {
        loop {
            // Registered before the look, so that a slot that becomes ready in between is not missed.
            let mut filled = std::pin::pin!(self.filled.notified());
            filled.as_mut().enable();
            if let Some(slot) = self.lock().ready.pop_front() {
                self.wanted.notify_one();
                return slot;
            }
            filled.await;
        }
    }

    /// Destroys a used slot; its index can be used again afterwards.
    pub(crate) async fn destroy(&self, index: u16) -> Result<(), network::NetworkError> {
        self.host.destroy_slot(index).await?;
        self.lock().taken.remove(&index);
        self.wanted.notify_one();
        Ok(())
    }

    /// Keeps the pool filled until `stop`. A slot that is being made then is finished, so that [`Slots::drain`] finds
    /// it.
    pub(crate) async fn keep_filled(&self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let wanted = self.wanted.notified();
            let Some(index) = self.next() else {
                stop.run_until_cancelled(wanted).await;
                continue;
            };
            match self.host.create_slot(index).await {
                Ok(slot) => {
                    self.lock().ready.push_back(slot);
                    self.filled.notify_one();
                }
                Err(error) => {
                    tracing::error!(%error, index, "making a network slot failed, trying again");
                    match self.host.destroy_slot(index).await {
                        Ok(()) => {
                            self.lock().taken.remove(&index);
                        }
                        // It stays taken: with the same index the next attempt would fail in the same way, for ever.
                        Err(error) => {
                            tracing::error!(%error, index, "removing what was made of the slot failed")
                        }
                    }
                    stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                }
            }
        }
    }

    /// The index to make next, when one is needed.
    fn next(&self) -> Option<u16> {
        let mut state = self.lock();
        if state.ready.len() >= self.ahead {
            return None;
        }
        let index = (0..MAX_SLOTS).find(|index| !state.taken.contains(index))?;
        state.taken.insert(index);
        Some(index)
    }

    /// Destroys the slots that nobody took.
    pub(crate) async fn drain(&self) {
        let ready = std::mem::take(&mut self.lock().ready);
        for slot in ready {
            if let Err(error) = self.destroy(slot.index()).await {
                tracing::warn!(%error, index = slot.index(), "destroying an unused network slot failed");
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
