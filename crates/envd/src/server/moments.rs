//! Moments at which connections lose the other side.

use std::net::IpAddr;

use tokio::sync::watch;

/// The moments of a machine that matter to connections: each sender counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moments {
    /// It comes to rest for a snapshot.
    pub(crate) rests: watch::Sender<u64>,
    /// It goes on from one, and whoever was connected from outside is gone.
    pub(crate) resumes: watch::Sender<u64>,
}

impl Moments {
    /// Rests and resumes from now on, as far as they matter to a connection to this peer.
    pub(super) fn of(&self, peer: IpAddr) -> (Moment, Moment) {
        // Who is in this machine rests and is resumed together with us.
        let outside = !peer.is_loopback();
        let of = |sender: &watch::Sender<u64>| Moment(outside.then(|| sender.subscribe()));
        (of(&self.rests), of(&self.resumes))
    }
}

/// One kind of moment.
pub(super) struct Moment(Option<watch::Receiver<u64>>);

impl Moment {
    /// Waits for the next one. For ever when it does not matter.
    pub(super) async fn comes(&mut self) {
        match &mut self.0 {
            // Without a sender the daemon ends.
            Some(moments) => drop(moments.changed().await),
            None => std::future::pending().await,
        }
    }
}
