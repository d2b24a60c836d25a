//! A host of its own for every test: a network namespace that plays the host, one that plays the internet, and
//! guests with a real network stack behind the tap. Tests change nothing of the machine they run on.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use model::NetworkPolicy;
use network::guest::{GUEST_IP, GUEST_MAC, HOST_IP};
use network::{InstanceTag, Slot};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Long enough for anything that is going to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough to believe that nothing happens. Only waited out where packets are dropped without a word.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);

/// The host's address on its uplink.
pub(crate) const UPLINK_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The host's default gateway: on a network of the host's, though a public one.
pub(crate) const GATEWAY_IP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// A machine on the internet.
pub(crate) const PUBLIC_IP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
/// Machines behind the host's gateway that have private addresses.
pub(crate) const PRIVATE_IPS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(10, 200, 0, 5),
    Ipv4Addr::new(172, 20, 0, 5),
    Ipv4Addr::new(192, 168, 7, 5),
    Ipv4Addr::new(100, 100, 100, 200),
];

/// A policy that lets a sandbox out, or does not.
pub(crate) fn policy(allow_internet: bool) -> NetworkPolicy {
    NetworkPolicy { allow_internet, ..NetworkPolicy::default() }
}

/// A tag that no other test has.
pub(crate) fn random_tag() -> InstanceTag {
    InstanceTag::new((RandomState::new().hash_one(std::process::id()) & 0xffff) as u16)
}

/// Runs a test on a host of its own.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send + 'static) {
    let body = move || {
        sys::netns::unshare_network().unwrap();
        ip("link set lo up");
        let world = World::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(world));
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

pub(crate) fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A namespace to run things in.
#[derive(Clone)]
pub(crate) struct Place(Arc<OwnedFd>);

impl Place {
    pub(crate) fn here() -> Self {
        Self(Arc::new(std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()))
    }

    pub(crate) fn of(slot: &Slot) -> Self {
        Self(Arc::new(slot.open_netns().unwrap()))
    }

    /// A new, empty one.
    pub(crate) fn new() -> Self {
        let make = || {
            sys::netns::unshare_network().unwrap();
            ip("link set lo up");
            Self::here()
        };
        std::thread::spawn(make).join().unwrap()
    }

    pub(crate) fn netns(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.0)
    }

    /// Starts a thread in it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let netns = self.netns();
        std::thread::spawn(move || {
            network::enter(netns.as_fd()).unwrap();
            work()
        })
    }

    /// Runs something in it.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.spawn(work).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    pub(crate) fn ip(&self, arguments: &str) -> String {
        let arguments = arguments.to_owned();
        self.run(move || ip(&arguments))
    }

    /// Listens and tells whoever connects the address it came from.
    pub(crate) fn listen(&self, port: u16) {
        self.run(move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    answer(stream);
                }
            });
        });
    }

    /// Those of the addresses whose service answers from inside, all asked at once.
    pub(crate) fn reached(&self, addresses: Vec<Ipv4Addr>, port: u16) -> Vec<Ipv4Addr> {
        let asked: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                let place = self.clone();
                (address, std::thread::spawn(move || place.ask(address, port, SILENCE).is_ok()))
            })
            .collect();
        asked
            .into_iter()
            .filter_map(|(address, answered)| answered.join().unwrap().then_some(address))
            .collect()
    }

    /// Connects from inside and returns what the other side answers.
    pub(crate) fn ask(&self, address: Ipv4Addr, port: u16, timeout: Duration) -> io::Result<String> {
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&SocketAddrV4::new(address, port).into(), timeout)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        })
    }
}

fn answer(mut stream: TcpStream) {
    if let Ok(peer) = stream.peer_addr() {
        // The other side may have left.
        let _ = write!(stream, "{}", peer.ip());
    }
}

/// What a test's host is connected to.
pub(crate) struct World {
    pub(crate) tag: InstanceTag,
    pub(crate) host: Place,
    pub(crate) internet: Place,
}

/// A port on which every machine of the world has a service.
pub(crate) const SERVICE: u16 = 8080;

impl World {
    fn new() -> Self {
        let host = Place::here();
        let internet = Place::new();
        let tag = random_tag();
        ip("link add up0 type veth peer name up1");
        let netns = internet.netns();
        let pid = std::process::id();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&*netns);
        ip(&format!("link set up1 netns /proc/{pid}/fd/{fd}"));
        ip(&format!("address add {UPLINK_IP}/30 dev up0"));
        ip("link set up0 up");
        internet.ip(&format!("address add {GATEWAY_IP}/30 dev up1"));
        internet.ip("link set up1 up");
        internet.ip(&format!("address add {PUBLIC_IP}/32 dev lo"));
        for address in PRIVATE_IPS {
            internet.ip(&format!("address add {address}/32 dev lo"));
        }
        ip(&format!("route add default via {GATEWAY_IP}"));
        internet.listen(SERVICE);
        host.listen(SERVICE);
        Self { tag, host, internet }
    }

    /// What there is on the host, in words.
    pub(crate) fn census(&self) -> String {
        let prefix = format!("cf{}-", self.tag);
        self.host.run(move || {
            let links: Vec<_> = run("ip", "-o -br link").lines().map(first_word).collect();
            let names: Vec<_> = std::fs::read_dir("/run/netns")
                .map(|entries| {
                    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
                })
                .unwrap_or_default();
            let names: Vec<_> = names.into_iter().filter(|name: &String| name.starts_with(&prefix)).collect();
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            let mounts = mounts.matches(&format!("/run/netns/{prefix}")).count();
            format!(
                "links {links:?}, namespaces {names:?}, mounts {mounts}, tables {}, routes {}",
                run("nft", "list tables"),
                run("ip", "-4 route show table all")
            )
        })
    }
}

impl Drop for World {
    /// The one thing that namespaces do not take with them: the names that a failed test left.
    fn drop(&mut self) {
        let prefix = format!("cf{}-", self.tag);
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                drop(Command::new("umount").arg("-l").arg(entry.path()).output());
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }
}

fn first_word(line: &str) -> String {
    let word = line.split_whitespace().next().unwrap_or_default();
    word.split('@').next().unwrap_or_default().to_owned()
}

/// A guest: a namespace with its own tap, and a cable from there to the slot's tap, as a machine monitor is one.
pub(crate) struct Guest {
    pub(crate) place: Place,
    stop: Arc<AtomicBool>,
    cable: Option<JoinHandle<()>>,
}

impl Guest {
    pub(crate) fn plug_into(slot: &Slot) -> Self {
        let place = Place::new();
        let mac = GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        let card = place.run(move || {
            let card = sys::tap::open("eth0").unwrap();
            ip(&format!("link set eth0 address {mac}"));
            ip(&format!("address add {GUEST_IP}/30 dev eth0"));
            ip("link set eth0 up");
            ip(&format!("route add default via {HOST_IP}"));
            card
        });
        let tap = Place::of(slot).run(|| network::open_tap().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let cable = Some(std::thread::spawn(move || carry(&card, &tap, &stopped)));
        place.listen(SERVICE);
        Self { place, stop, cable }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(cable) = self.cable.take() {
            // A panic of the cable has failed the test by itself.
            drop(cable.join());
        }
    }
}

/// Carries frames both ways; those the other side has no room for are lost, as on any wire.
fn carry(left: &OwnedFd, right: &OwnedFd, stop: &AtomicBool) {
    let mut frame = vec![0; 65536 + 12];
    let tick = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        let mut ends = [PollFd::new(left, PollFlags::IN), PollFd::new(right, PollFlags::IN)];
        poll(&mut ends, Some(&tick)).unwrap();
        for (from, to) in [(left, right), (right, left)] {
            while let Ok(length) = rustix::io::read(from, &mut frame) {
                // A link that is down refuses frames.
                let _ = rustix::io::write(to, &frame[..length]);
            }
        }
    }
}
