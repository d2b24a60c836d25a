//! The machine around the daemon, as far as `/init` changes it: clock, name, random numbers.
//!
//! Only in a guest is the machine the daemon's to change (`-guest`, which PID 1 of a sandbox says). Anywhere else, as in
//! tests, all of this does nothing.

use std::io;
use std::time::{Duration, Instant};

use guest_init::machine_name;
use sys::entropy::KernelRandom;
use tokio::sync::{Mutex, MutexGuard};

use super::clock::{self, HostTime, Rule};
use crate::filesystem::blocking;

/// How long the root disk may take to hold the new name. It may be slow after a resume, and it may be stuck.
const HOSTS_TIMEOUT: Duration = Duration::from_secs(1);

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// When it was last booted or resumed, as far as the host has said.
    since: Mutex<Option<Instant>>,
    guest: Option<Guest>,
}

#[derive(Debug)]
struct Guest {
    /// Opened before anybody in the guest could put something else in its place.
    random: io::Result<KernelRandom>,
}

impl Machine {
    /// The machine that this process runs on.
    pub(crate) fn new(is_guest: bool) -> Self {
        Self { since: Mutex::default(), guest: is_guest.then(|| Guest { random: KernelRandom::open() }) }
    }

    /// To be held by who changes it. In it is when the machine was last booted or resumed, as far as it is known.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().await
    }

    /// Makes the random numbers from now on others than those of every copy of this machine.
    ///
    /// # Errors
    /// When that did not succeed, for people.
    pub(super) fn diverge(&self, seed: &[u8]) -> Result<(), String> {
        let Some(guest) = &self.guest else { return Ok(()) };
        let mixed = match &guest.random {
            Ok(random) => random.mix(seed).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        mixed.map_err(|error| format!("cannot seed the random number generator: {error}"))
    }

    /// Sets the clock when it is too far from the host's.
    ///
    /// # Errors
    /// As above.
    pub(super) fn follow(&self, host: HostTime, rule: Rule) -> Result<(), String> {
        if self.guest.is_none() {
            return Ok(());
        }
        clock::follow(host, rule).map_err(|error| format!("cannot set the clock: {error}"))
    }

    /// Takes a name.
    ///
    /// # Errors
    /// As above. The new name may be known in a part of the places.
    pub(super) async fn take_name(&self, name: String) -> Result<(), String> {
        if self.guest.is_none() {
            return Ok(());
        }
        machine_name::set_in_kernel(&name).map_err(|error| format!("cannot set the host name: {error}"))?;
        let hosts = blocking(move || machine_name::make_resolvable(machine_name::HOSTS, &name));
        let written = tokio::time::timeout(HOSTS_TIMEOUT, hosts).await;
        written
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| format!("cannot write {}: {error}", machine_name::HOSTS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outside_a_guest_nothing_changes() {
        let name = || rustix::system::uname().nodename().to_owned();
        let before = (name(), std::fs::read("/etc/hosts").ok());
        let machine = Machine::new(false);
        machine.diverge(b"").unwrap();
        machine.follow(HostTime::new(jiff::Timestamp::UNIX_EPOCH, Instant::now()), Rule::Exact).unwrap();
        machine.take_name("another".into()).await.unwrap();
        assert_eq!((name(), std::fs::read("/etc/hosts").ok()), before);
        assert!(jiff::Timestamp::now().as_second() > 1_000_000_000);
    }
}
