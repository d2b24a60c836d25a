//! The machine around the daemon, as far as `/init` changes it: clock, name, random numbers, and a few files.
//!
//! Only in a guest is the machine the daemon's to change (`-guest`, which PID 1 of a sandbox says). Anywhere else, as in
//! tests, all of this does nothing; the files alone can be those of a directory (`-system-root`).

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use guest_init::machine_name;
use sha2::{Digest as _, Sha256};
use sys::entropy::KernelRandom;
use tokio::sync::{Mutex, MutexGuard};

use super::clock::{self, HostTime, Rule};
use super::{hyperloop, run_files, trust};
use crate::apart::Apart;

/// How long the root disk may take to hold the new name. It may be slow after a resume, and it may be stuck.
const HOSTS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take for what nobody waits for.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to hold certificates, without which programs reach nothing through the host.
const TRUST_TIMEOUT: Duration = Duration::from_secs(5);

/// Below the root.
const HOSTS: &str = "etc/hosts";

/// The machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// When it was last booted or resumed, as far as the host has said.
    since: Mutex<Option<Instant>>,
    guest: Option<Guest>,
    /// Below where files are ours to change.
    root: Option<Arc<Path>>,
    apart: Apart,
    /// Held while the file of names is changed.
    hosts: Arc<StdMutex<()>>,
    /// The digest of the certificates that were installed last.
    trusted: StdMutex<Option<[u8; 32]>>,
}

#[derive(Debug)]
struct Guest {
    /// Opened before anybody in the guest could put something else in its place.
    random: io::Result<KernelRandom>,
}

impl Machine {
    /// The machine that this process runs on.
    pub(crate) fn new(is_guest: bool, system_root: Option<PathBuf>) -> Self {
        let root = system_root.or_else(|| is_guest.then(|| PathBuf::from("/")));
        Self {
            since: Mutex::default(),
            guest: is_guest.then(|| Guest { random: KernelRandom::open() }),
            root: root.map(Into::into),
            apart: Apart::default(),
            hosts: Arc::default(),
            trusted: StdMutex::default(),
        }
    }

    /// To be held by who changes it. In it is when the machine was last booted or resumed, as far as it is known.
    pub(super) async fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().await
    }

    /// Whether it is a sandbox of its own.
    pub(super) fn is_guest(&self) -> bool {
        self.guest.is_some()
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
        self.edit_hosts(HOSTS_TIMEOUT, move |path| machine_name::make_resolvable(path, &name)).await
    }

    /// Makes programs find the host's own services by their name.
    ///
    /// # Errors
    /// As above.
    pub(super) async fn find_hyperloop(&self, ip: IpAddr) -> Result<(), String> {
        let edit = move |path: &str| machine_name::edit(path, |before| hyperloop::with_name(before, ip));
        self.edit_hosts(BACKGROUND_TIMEOUT, edit).await
    }

    async fn edit_hosts(
        &self,
        limit: Duration,
        edit: impl FnOnce(&str) -> io::Result<()> + Send + 'static,
    ) -> Result<(), String> {
        let Some(root) = &self.root else { return Ok(()) };
        let path = root.join(HOSTS).to_string_lossy().into_owned();
        let failed = format!("cannot write {path}");
        let order = Arc::clone(&self.hosts);
        let work = move || {
            let _order = order.lock().unwrap_or_else(PoisonError::into_inner);
            edit(&path)
        };
        self.apart.run(limit, work).await.map_err(|error| format!("{failed}: {error}"))
    }

    /// Tells programs where they are.
    ///
    /// # Errors
    /// As above.
    pub(super) async fn write_run_files(&self, variables: BTreeMap<String, String>) -> Result<(), String> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let written = self.apart.run(BACKGROUND_TIMEOUT, move || run_files::write(&root, &variables)).await;
        written.map_err(|error| format!("cannot write what describes this sandbox below /run/e2b: {error}"))
    }

    /// Makes programs trust certificates, and no longer those of the last time. The same ones again cost nothing. To be
    /// called by one at a time.
    ///
    /// # Errors
    /// What the file system says; `TimedOut` when it is still being done.
    pub(super) async fn trust(&self, certificates: String) -> io::Result<()> {
        let Some(root) = self.root.clone() else { return Ok(()) };
        let digest = <[u8; 32]>::from(Sha256::digest(&certificates));
        if *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) == Some(digest) {
            return Ok(());
        }
        self.apart.run(TRUST_TIMEOUT, move || trust::install(&root, &certificates)).await?;
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) = Some(digest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn outside_a_guest_nothing_changes() {
        let name = || rustix::system::uname().nodename().to_owned();
        let before = (name(), std::fs::read("/etc/hosts").ok());
        let machine = Machine::new(false, None);
        machine.diverge(b"").unwrap();
        machine.follow(HostTime::new(jiff::Timestamp::UNIX_EPOCH, Instant::now()), Rule::Exact).unwrap();
        machine.take_name("another".into()).await.unwrap();
        machine.find_hyperloop(IpAddr::from([192, 0, 2, 1])).await.unwrap();
        machine.trust("no certificate".into()).await.unwrap();
        machine.write_run_files(BTreeMap::new()).await.unwrap();
        assert_eq!((name(), std::fs::read("/etc/hosts").ok()), before);
        assert!(jiff::Timestamp::now().as_second() > 1_000_000_000);
    }
}
