//! The connections into each sandbox: those in use are counted, idle ones are kept for the next request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use model::{GuestPort, SandboxId};
use tokio_util::sync::CancellationToken;

use crate::config::{MAX_POOLED_PER_PORT, MAX_POOLED_PORTS, Timeouts};
use crate::link::Link;
use crate::sandboxes::{ConnectError, Sandboxes};

/// Every sandbox that has, or recently had, a connection.
#[derive(Default)]
pub(crate) struct Guests(RwLock<HashMap<SandboxId, Arc<Guest>>>);

impl Guests {
    /// The connections of one sandbox.
    pub(crate) fn of(&self, id: &SandboxId) -> Arc<Guest> {
        if let Some(guest) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(id) {
            return Arc::clone(guest);
        }
        let mut guests = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(guests.entry(id.clone()).or_insert_with(|| Arc::new(Guest::new(id.clone()))))
    }

    /// Closes every connection into a sandbox, also those in the middle of something.
    pub(crate) fn end(&self, id: &SandboxId) {
        if let Some(guest) = self.0.write().unwrap_or_else(PoisonError::into_inner).remove(id) {
            guest.end();
        }
    }

    /// The same for what is known to be of an earlier run: connections of a later one, if there are any, stay.
    fn end_one(&self, guest: &Arc<Guest>) {
        let mut guests = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if guests.get(&guest.id).is_some_and(|current| Arc::ptr_eq(current, guest)) {
            guests.remove(&guest.id);
        }
        drop(guests);
        guest.end();
    }

    /// Closes every connection into every sandbox.
    pub(crate) fn end_all(&self) {
        for (_, guest) in self.0.write().unwrap_or_else(PoisonError::into_inner).drain() {
            guest.end();
        }
    }

    /// Closes connections that were idle for too long and those of sandboxes that do not run any more.
    pub(crate) fn sweep(&self, sandboxes: &dyn Sandboxes, max_idle: Duration) {
        let known: Vec<Arc<Guest>> =
            self.0.read().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect();
        for guest in known {
            if sandboxes.lookup(&guest.id).is_none_or(|target| target.asleep) {
                self.end_one(&guest);
            } else {
                guest.close_idle(max_idle);
            }
        }
        // With the map locked nobody can get hold of a guest that only the map holds.
        let unused =
            |guest: &Arc<Guest>| Arc::strong_count(guest) == 1 && guest.wires.load(Ordering::Relaxed) == 0;
        self.0.write().unwrap_or_else(PoisonError::into_inner).retain(|_, guest| !unused(guest));
    }
}

/// The connections of one sandbox.
pub(crate) struct Guest {
    id: SandboxId,
    ended: CancellationToken,
    /// Connections that exist, idle or not.
    wires: Arc<AtomicUsize>,
    idle: Mutex<HashMap<GuestPort, Vec<Idle>>>,
}

struct Idle {
    link: Link,
    since: Instant,
}

impl Guest {
    fn new(id: SandboxId) -> Self {
        Self { id, ended: CancellationToken::new(), wires: Arc::default(), idle: Mutex::default() }
    }

    /// Cancelled when the sandbox ended or was paused.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    pub(crate) fn wires(&self) -> &Arc<AtomicUsize> {
        &self.wires
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<GuestPort, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.ended.cancel();
        self.idle().clear();
    }

    /// The idle connection to a port that was used last.
    pub(crate) fn take_idle(&self, port: GuestPort) -> Option<Link> {
        let mut idle = self.idle();
        let links = idle.get_mut(&port)?;
        while let Some(Idle { link, .. }) = links.pop() {
            if link.is_usable() {
                return Some(link);
            }
        }
        idle.remove(&port);
        None
    }

    /// Keeps an idle connection, or closes it when there are enough.
    pub(crate) fn park(&self, port: GuestPort, link: Link) {
        let mut idle = self.idle();
        if self.ended.is_cancelled() || (idle.len() >= MAX_POOLED_PORTS && !idle.contains_key(&port)) {
            return;
        }
        let links = idle.entry(port).or_default();
        if links.len() < MAX_POOLED_PER_PORT {
            links.push(Idle { link, since: Instant::now() });
        }
    }

    fn close_idle(&self, max_idle: Duration) {
        self.idle().retain(|_, links| {
            links.retain(|idle| idle.since.elapsed() < max_idle && idle.link.is_usable());
            !links.is_empty()
        });
    }

    /// A fresh connection to a port.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        sandboxes: &dyn Sandboxes,
        port: GuestPort,
        limits: &Timeouts,
    ) -> Result<Link, ConnectError> {
        let connect = tokio::time::timeout(limits.connect, sandboxes.connect(&self.id, port));
        let stream = match self.ended.run_until_cancelled(connect).await {
            None => return Err(ConnectError::NotFound),
            Some(Err(_)) => return Err(ConnectError::TimedOut),
            Some(Ok(stream)) => stream?,
        };
        Link::open(stream, self, port, limits)
            .await
            .map_err(|error| ConnectError::Io(std::io::Error::other(error)))
    }
}
