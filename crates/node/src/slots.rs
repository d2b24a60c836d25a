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
    /// A pool that considers `in_use` as taken. Fills when [`Slots::keep_filled`] runs.
    pub(crate) fn new(host: Arc<Host>, ahead: usize, in_use: &HashSet<u16>) -> Self {
        let state = State { ready: VecDeque::new(), taken: in_use.iter().copied().collect() };
        Self { host, state: Mutex::new(state), ahead, filled: Notify::new(), wanted: Notify::new() }
    }

    /// A slot nobody uses; waits when there is none yet. Its caller gives it back with [`Slots::destroy`].
    pub(crate) async fn take(&self) -> Slot {
        loop {
            // Registered before the look, so that a slot that becomes ready in between is not missed.
            let filled = self.filled.notified();
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

    /// Keeps the pool filled, for ever.
    pub(crate) async fn keep_filled(&self) {
        loop {
            let wanted = self.wanted.notified();
            let Some(index) = self.next() else {
                wanted.await;
                continue;
            };
            match self.host.create_slot(index).await {
                Ok(slot) => {
                    self.lock().ready.push_back(slot);
                    self.filled.notify_one();
                }
                Err(error) => {
                    tracing::error!(%error, index, "making a network slot failed, trying again");
                    if let Err(error) = self.host.destroy_slot(index).await {
                        tracing::warn!(%error, index, "removing what was made of the slot failed");
                    }
                    self.lock().taken.remove(&index);
                    tokio::time::sleep(RETRY).await;
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
