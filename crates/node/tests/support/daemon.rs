//! Plays the guest daemon of every sandbox of a node, from inside the sandbox's network namespace: what a guest does
//! after it booted, without the wait. The VMM boots a real kernel meanwhile.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use control::Client;
use network::guest::{ENDPOINT_PORT, GUEST_IP, HOST_IP};

use super::census::is_alive;

const LOOK: Duration = Duration::from_millis(20);

/// Ends when dropped.
pub(crate) struct Daemons {
    stop: Arc<AtomicBool>,
}

impl Daemons {
    /// Plays for every sandbox that appears in `sandboxes`.
    pub(crate) fn play(sandboxes: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        thread::spawn(move || {
            let mut seen = HashSet::new();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            while !stopped.load(Ordering::Relaxed) {
                for dir in std::fs::read_dir(&sandboxes).into_iter().flatten().flatten() {
                    if seen.contains(&dir.file_name()) {
                        continue;
                    }
                    if let Some(pid) = runtime.block_on(supervisor_of(&dir.path())) {
                        seen.insert(dir.file_name());
                        let stopped = Arc::clone(&stopped);
                        thread::spawn(move || daemon(pid, &stopped));
                    }
                }
                thread::sleep(LOOK);
            }
        });
        Self { stop }
    }
}

impl Drop for Daemons {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn supervisor_of(dir: &Path) -> Option<i32> {
    let status = tokio::time::timeout(Duration::from_secs(1), Client::new(dir).status()).await;
    status.ok()?.ok().map(|status| status.supervisor_pid)
}

/// One guest's daemon. What fails here shows as a sandbox that does not start.
fn daemon(supervisor: i32, stop: &AtomicBool) {
    let Ok(netns) = File::open(format!("/proc/{supervisor}/ns/net")) else { return };
    network::enter(netns.as_fd()).unwrap();
    drop(netns);
    for arguments in [format!("addr add {GUEST_IP}/32 dev lo"), "link set lo up".into()] {
        Command::new("ip").args(arguments.split(' ')).output().unwrap();
    }
    let Ok(listener) = TcpListener::bind((GUEST_IP, model::ENVD_PORT)) else { return };
    listener.set_nonblocking(true).unwrap();
    thread::spawn(|| {
        let Ok(mut endpoint) = TcpStream::connect((HOST_IP, ENDPOINT_PORT)) else { return };
        let body = r#"{"version":"0.6.13"}"#;
        let head = format!("POST /v1/ready HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = endpoint.write_all(format!("{head}{body}").as_bytes());
        let _ = endpoint.read(&mut [0; 512]);
    });
    while is_alive(supervisor) && !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => answer(stream),
            Err(_) => thread::sleep(LOOK),
        }
    }
}

fn answer(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.push(byte[0]);
    }
    // The body is in the socket's buffer, and of no interest.
    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut request);
}
