//! A bare restore: the library crates, a VMM and a guest, in one process that is neither server nor supervisor. Each
//! line of its standard input is a [`Request`], each of its output a [`Restored`].

use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifacts::{Image, LocalStore, Store};
use build::{Manifest, ObjectKind, ObjectName, Pages};
use disk::Overlay;
use guest_memory::{GuestMemory, Options, PageServer, handshake};
use model::{BuildId, ENVD_PORT, SandboxId, Secret};
use network::guest;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use vmm::{Confinement, Driver, Machine, Preload, Qemu, RootDisk, Start, Vm};

use super::handover;
use crate::http::{Connection, as_user};

/// A guest that has not answered by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
/// As the supervisor gives it.
const ENTROPY_BYTES: usize = 64;

/// What is to be restored.
#[derive(Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) build: BuildId,
    /// What its guest daemon asks for; a template's asks for none.
    pub(super) token: Option<String>,
}

/// How long it took, from the request until each of these.
#[derive(Serialize, Deserialize)]
pub(super) struct Restored {
    /// The VMM is in control.
    pub(super) launched: Duration,
    /// The memory is served.
    pub(super) served: Duration,
    /// The device state is loaded.
    pub(super) loaded: Duration,
    /// The processors run.
    pub(super) running: Duration,
    /// The guest daemon has its identity.
    pub(super) initialised: Duration,
    /// The first command has finished.
    pub(super) finished: Duration,
}

/// Restores what it is told to inside the network namespace `netns`.
pub(super) fn run(store: &Path, netns: &Path) -> Result<(), String> {
    let driver = Qemu::new();
    let namespace = std::fs::File::open(netns).map_err(|error| format!("{}: {error}", netns.display()))?;
    // Before there are threads.
    network::enter(namespace.as_fd()).map_err(|error| format!("entering {}: {error}", netns.display()))?;
    let library = handover::library()?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let request: Request = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let restored = runtime.block_on(async {
            let restore = restore(&driver, store, &library, &request);
            tokio::time::timeout(PATIENCE, restore).await.map_err(|_| "it took too long".to_owned())?
        })?;
        let answer = serde_json::to_string(&restored).map_err(|error| error.to_string())?;
        writeln!(io::stdout(), "{answer}").map_err(|error| error.to_string())?;
    }
    Ok(())
}

async fn restore(
    driver: &Qemu,
    store: &Path,
    library: &OwnedFd,
    request: &Request,
) -> Result<Restored, String> {
    let begun = Instant::now();
    let build = Build::open(store, &request.build)?;
    let (socket, theirs) = handshake::pair().map_err(text)?;
    let preload = Preload {
        library: library.try_clone().map_err(text)?,
        socket: theirs,
        userfaultfd: handover::device(),
    };
    let machine = build.machine(store, preload)?;
    let vm = driver.launch(machine).await.map_err(text)?;
    let launched = begun.elapsed();
    let handshake = handshake::receive(socket, Instant::now() + PATIENCE).map_err(text)?;
    let pages = serve(vm.as_ref(), handshake, &build)?;
    let served = begun.elapsed();
    vm.load_state(&build.device_state).await.map_err(text)?;
    let loaded = begun.elapsed();
    vm.resume().await.map_err(text)?;
    let running = begun.elapsed();

    let address = SocketAddr::from((guest::GUEST_IP, ENVD_PORT));
    Connection::open(address, Vec::new()).await?.json("POST", "/init", &identity(request)).await?;
    let initialised = begun.elapsed();
    // The daemon closes connections from before it heard of the resume.
    let mut headers = vec![as_user("user")];
    headers.extend(request.token.iter().map(|token| ("x-access-token", token.clone())));
    Connection::open(address, headers).await?.command("/bin/true", &[]).await?;
    let finished = begun.elapsed();

    vm.kill();
    vm.wait().await;
    pages.stop();
    Ok(Restored { launched, served, loaded, running, initialised, finished })
}

/// What a sandbox's guest daemon is told when it goes on.
fn identity(request: &Request) -> serde_json::Value {
    let id = SandboxId::random();
    let mut identity = json!({
        "envVars": {},
        "timestamp": jiff::Timestamp::now(),
        "defaultUser": "user",
        "lifecycleID": SandboxId::random(),
        "sandboxID": id,
        "templateID": crate::builds::BASE,
        "hostname": id,
        "entropy": Secret::random("", ENTROPY_BYTES).expose(),
    });
    if let Some(token) = &request.token {
        identity["accessToken"] = token.as_str().into();
    }
    identity
}

/// An opened build.
struct Build {
    manifest: Manifest,
    memory: Arc<Image>,
    disk: Arc<Image>,
    device_state: Vec<u8>,
}

impl Build {
    fn open(store: &Path, id: &BuildId) -> Result<Self, String> {
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(store).map_err(text)?);
        let manifest = artifacts::load_manifest(&*store, id).map_err(text)?;
        let state = manifest.device_state.as_ref().ok_or("the build has no device state")?;
        let device_state = artifacts::load_blob(&*store, id, ObjectName::DeviceState, state).map_err(text)?;
        let open = |kind| Image::open(&*store, id, kind).map(Arc::new).map_err(text);
        let (memory, disk) = (open(ObjectKind::Memory)?, open(ObjectKind::Disk)?);
        Ok(Self { manifest, memory, disk, device_state })
    }

    /// A machine that waits for the build's state, without any confinement. What it prints is lost.
    fn machine(&self, store: &Path, preload: Preload) -> Result<Machine, String> {
        let shape = self.manifest.shape;
        let (console, theirs) = UnixStream::pair().map_err(text)?;
        // Ends with the VMM.
        spawn("console", move || drop(io::copy(&mut &console, &mut io::sink())))?;
        Ok(Machine {
            vcpus: shape.vcpus,
            memory: GuestMemory::create(shape.memory.bytes()).map_err(text)?,
            start: Start::Incoming { preload: Some(preload) },
            root_disk: RootDisk::Nbd(self.serve_disk(store)?),
            tap: Some(network::open_tap().map_err(text)?),
            mac: guest::GUEST_MAC,
            console: theirs.into(),
            accel: crate::builds::accel_of(&self.manifest)?,
            program: None,
            confinement: Confinement::default(),
        })
    }

    fn serve_disk(&self, store: &Path) -> Result<OwnedFd, String> {
        let base = Arc::clone(&self.disk) as Arc<dyn Pages>;
        let changes = tempfile::tempfile_in(store).map_err(text)?;
        let overlay = Overlay::from_file(base, changes, self.manifest.shape.disk.bytes()).map_err(text)?;
        let (ours, theirs) = UnixStream::pair().map_err(text)?;
        spawn("disk", move || drop(disk::nbd::serve(ours, Arc::new(overlay))))?;
        Ok(theirs.into())
    }
}

fn serve(vm: &dyn Vm, handshake: handshake::Handshake, build: &Build) -> Result<PageServer, String> {
    let process = Pid::from_raw(vm.pid()).ok_or("the VMM has no process")?;
    let process = pidfd_open(process, PidfdFlags::empty()).map_err(text)?;
    let options = Options {
        on_failure: Box::new(move |error| {
            eprintln!("the page server failed: {error}");
            // It may be gone already.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }),
        record: false,
    };
    let source = Arc::clone(&build.memory) as Arc<dyn Pages>;
    let pages = PageServer::start(handshake, source, options).map_err(text)?;
    let wanted = build.manifest.working_set.iter().map(|&(first, pages)| first..first.saturating_add(pages));
    pages.prefetch(wanted.collect()).map_err(text)?;
    Ok(pages)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop).map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
