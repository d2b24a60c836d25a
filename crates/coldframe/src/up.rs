//! `coldframe up`: in the foreground, or in the background with `--detach`.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sys::child::{ChildSetup, prepare};

use crate::Outcome;
use crate::cli::Up;
use crate::state::StateDir;

/// From `up --detach` until the server answers. Making the base template is not counted: `up` does that first. Booting it
/// once, for the snapshot that every sandbox goes on from, is: without hardware virtualization that takes its time.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// A server that is asked to stop closes its listener at once and waits this long for requests under way.
const STOP_PATIENCE: Duration = Duration::from_secs(40);
/// Between two looks at a server that starts or stops.
const LOOK: Duration = Duration::from_millis(20);
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) fn run(options: &Up) -> Outcome {
    if options.detach {
        return detach(options);
    }
    crate::logging::server();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?;
    runtime.block_on(crate::server::serve(options))?;
    Ok(ExitCode::SUCCESS)
}

/// Which build of this binary runs: an upgraded binary replaces a running server, an equal one leaves it alone.
pub(crate) fn build_identity() -> String {
    std::fs::metadata("/proc/self/exe")
        .map(|meta| format!("{}-{}-{}", meta.ino(), meta.size(), meta.mtime()))
        .unwrap_or_default()
}

fn detach(options: &Up) -> Outcome {
    let state = StateDir::open(&options.state.dir)?;
    if let Some(server) = state.server() {
        if server.build == build_identity() && server.url == url(options.listen) && healthy(&server.url) {
            println!("coldframe serves on {}", server.url);
            return Ok(ExitCode::SUCCESS);
        }
        println!("replacing the running server; its sandboxes run on");
        stop(&state)?;
    }
    // Long steps belong to the terminal that asked for them, not to a log.
    crate::template_cmd::ensure(&state)?;
    let mut child = spawn(&state)?;
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if let Some(server) = state.server().filter(|server| healthy(&server.url)) {
            println!("coldframe serves on {}; its log is {}", server.url, state.server_log().display());
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("the server ended ({status}) while it started:\n{}", tail(&state)));
        }
        if Instant::now() >= deadline {
            return Err(format!("the server did not answer within {START_PATIENCE:?}:\n{}", tail(&state)));
        }
        std::thread::sleep(LOOK);
    }
}

/// Starts this very command again without `--detach`, in a session of its own.
fn spawn(state: &StateDir) -> Result<Child, String> {
    let log_path = state.server_log();
    let log = File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(|error| format!("opening {}: {error}", log_path.display()))?;
    let errors = log.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(std::env::args_os().skip(1).filter(|argument| argument != "--detach"))
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    prepare(&mut command, ChildSetup { new_session: true, ..ChildSetup::default() });
    command.spawn().map_err(|error| format!("starting the server: {error}"))
}

/// Stops the running server and waits until it is gone; its sandboxes run on.
pub(crate) fn stop(state: &StateDir) -> Result<(), String> {
    let Some(server) = state.server() else { return Ok(()) };
    let pid = Pid::from_raw(server.pid).ok_or("the server's file names no process")?;
    kill_process(pid, Signal::TERM)
        .map_err(|error| format!("stopping the server (process {}): {error}", server.pid))?;
    let deadline = Instant::now() + STOP_PATIENCE;
    while state.server().is_some_and(|now| now.pid == server.pid) {
        if Instant::now() >= deadline {
            return Err(format!("the server (process {}) did not stop within {STOP_PATIENCE:?}", server.pid));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

pub(crate) fn url(listen: SocketAddr) -> String {
    // What listens on every address is reached on loopback from here.
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(if listen.is_ipv4() {
            [127, 0, 0, 1].into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    format!("http://{address}")
}

/// Whether a server answers there.
pub(crate) fn healthy(url: &str) -> bool {
    let ask = || {
        let address: SocketAddr = url.strip_prefix("http://")?.parse().ok()?;
        let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT).ok()?;
        stream.set_read_timeout(Some(HEALTH_TIMEOUT)).ok()?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut start = [0_u8; 10];
        stream.read_exact(&mut start).ok()?;
        Some(start.starts_with(b"HTTP/1.1 2"))
    };
    ask().unwrap_or(false)
}

fn tail(state: &StateDir) -> String {
    let text = std::fs::read(state.server_log()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
