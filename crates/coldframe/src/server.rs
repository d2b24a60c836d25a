//! Putting the rooms together: catalog, node, API and edge on one port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use catalog::Catalog;
use model::{MiB, SandboxId};
use node::{Node, NodeConfig, NodeMetrics};
use prometheus_client::registry::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::builds::LocalBuilds;
use crate::cli::{PrefetchChoice, StartChoice, Up};
use crate::paused::CatalogRecords;
use crate::reach::Reach;
use crate::state::{ServerFile, StateDir};

/// The team of the key that `coldframe env` prints.
pub(crate) const DEFAULT_TEAM: &str = "default";
/// The longest time a sandbox may be asked to live, of any team.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How long a create waits for its turn: below the minute after which E2B clients give up.
pub(crate) const START_PATIENCE: Duration = Duration::from_secs(50);
const START_QUEUE: usize = 256;

/// Runs the server until it is told to stop. Sandboxes outlive it.
pub(crate) async fn serve(options: &Up) -> Result<(), String> {
    let state = StateDir::open(&options.state.dir)?;
    let lock = state.lock()?;
    raise_descriptor_limit();
    crate::workshop::sweep(&state).await;
    let listener = listen(options.listen)
        .map_err(|error| format!("listening on {}: {error}; choose another with --listen", options.listen))?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;

    let catalog = Arc::new(Catalog::open(&state.catalog()).await.map_err(|error| error.to_string())?);
    let base = {
        let state = state.clone();
        tokio::task::spawn_blocking(move || crate::template_cmd::ensure(&state))
            .await
            .map_err(|e| e.to_string())??
    };
    crate::builds::register_base(&catalog, &base).await?;
    ensure_key(&state, &catalog).await?;

    let verdict = crate::builds::accelerator(options.accel, &state, &base).await?;
    tracing::info!(accel = ?verdict.accel, reason = verdict.reason, "accelerator chosen");
    let metrics = NodeMetrics::default();
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let config = config(options, &state, crate::builds::control_accel(verdict.accel))?;
    let node = Node::start(
        config,
        Arc::new(LocalBuilds::new(&state)),
        Arc::new(CatalogRecords(Arc::clone(&catalog))),
        metrics,
    )
    .await
    .map_err(|e| e.to_string())?;
    match options.start {
        StartChoice::Snapshot => crate::warm::up(&node, options, &state, &base, verdict.accel).await?,
        StartChoice::Boot => tracing::info!("sandboxes boot, as was asked for"),
    }
    let mut kept = catalog.named_builds().await.map_err(|error| error.to_string())?;
    kept.extend(crate::warm::find(options, &state, &base, verdict.accel).await?.map(|found| found.build));
    node.keep_only(kept).await;

    let stop = CancellationToken::new();
    let api_state = api_state(options, Arc::clone(&catalog), &node);
    let api = api::router(api_state.clone());
    let api = api.merge(crate::metrics::router(catalog, registry));
    let reach =
        Reach::new(node.clone(), api_state).map_err(|error| format!("starting the dialer: {error}"))?;
    let edge = edge::Edge::new(
        Arc::new(reach),
        edge::EdgeConfig { domain: options.domain.clone(), ..edge::EdgeConfig::default() },
    );
    let url = crate::up::url(address);
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let file = ServerFile { pid, url: url.clone(), build: crate::up::build_identity() };
    state.write_server(&file).map_err(|error| format!("writing the server's address: {error}"))?;
    tracing::info!(url, state = %state.root().display(), "coldframe serves");

    tokio::spawn(stop_on_signal(stop.clone()));
    tokio::spawn(forget_ended(node.ended(), edge.clone()));
    edge::serve(listener, edge, api, stop).await;
    node.stop().await;
    state.remove_server();
    drop(lock);
    tracing::info!("coldframe stopped; its sandboxes run on until their end times, or `coldframe down`");
    Ok(())
}

fn api_state(options: &Up, catalog: Arc<Catalog>, node: &Node) -> api::ApiState {
    let config = api::ApiConfig {
        max_timeout: MAX_TIMEOUT,
        domain: options.domain.clone(),
        ..api::ApiConfig::default()
    };
    api::ApiState::new(catalog, Arc::new(node.clone()), config)
}

/// The limits of this host's node.
pub(crate) fn config(options: &Up, state: &StateDir, accel: control::Accel) -> Result<NodeConfig, String> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let memory = match options.memory {
        Some(memory) => MiB(memory),
        None => MiB(host_memory()?.0 / 4 * 3),
    };
    let concurrent_starts = match accel {
        // A boot is one processor's work; translated, it is all of it.
        control::Accel::Tcg => cores.max(2),
        control::Accel::Kvm => cores * 2,
    };
    Ok(NodeConfig {
        sandboxes: state.sandboxes(),
        store: state.store(),
        binary: "/proc/self/exe".into(),
        tag: state.tag(),
        accel,
        vmm: None,
        prefetch: match options.prefetch {
            PrefetchChoice::WorkingSet => control::Prefetch::WorkingSet,
            PrefetchChoice::Everything => control::Prefetch::Everything,
        },
        dns: options.dns.servers.clone(),
        max_sandboxes: options.max_sandboxes,
        memory,
        concurrent_starts,
        start_queue: START_QUEUE,
        start_patience: START_PATIENCE,
        slots_ahead: options.slots,
        machines_ahead: options.machines,
        ready: Duration::from_secs(options.ready_timeout),
        init: Duration::from_secs(20),
    })
}

fn host_memory() -> Result<MiB, String> {
    let info = std::fs::read_to_string("/proc/meminfo")
        .map_err(|error| format!("reading /proc/meminfo: {error}"))?;
    let kib = info
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    let kib: u64 = kib.ok_or("/proc/meminfo has no MemTotal")?;
    Ok(MiB(u32::try_from(kib / 1024).unwrap_or(u32::MAX)))
}

/// A burst of clients waits in the kernel instead of being refused.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A proxied connection takes two descriptors; the default soft limit of 1,024 is for programs that use select.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

/// Lets go of connections into sandboxes that ended, until the node is gone. What is missed in a burst, the edge finds
/// by itself some seconds later.
async fn forget_ended(mut ended: broadcast::Receiver<SandboxId>, edge: edge::Edge) {
    loop {
        match ended.recv().await {
            Ok(id) => edge.forget(&id),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

/// The first start makes the key that `coldframe env` prints.
async fn ensure_key(state: &StateDir, catalog: &Catalog) -> Result<(), String> {
    let team = catalog.ensure_team(DEFAULT_TEAM, DEFAULT_TEAM).await.map_err(|error| error.to_string())?;
    let usable = match state.key() {
        Some(key) => catalog.team_by_key(key.expose()).await.map_err(|error| error.to_string())?.is_some(),
        None => false,
    };
    if usable {
        return Ok(());
    }
    let (_, key) = catalog.create_key(&team.id, "coldframe env").await.map_err(|error| error.to_string())?;
    state.write_key(&key).map_err(|error| format!("keeping the default key: {error}"))
}

async fn stop_on_signal(stop: CancellationToken) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received; stop the server with SIGKILL, its sandboxes run on");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    stop.cancel();
}
