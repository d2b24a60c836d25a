//! What forwarding costs: `cargo bench -p edge`.
//!
//! The floor is the same client talking to the same guest without an edge between them. The edge runs on one thread,
//! so its processor time is that of that thread.
#![allow(clippy::unwrap_used, reason = "a measurement that fails has no result")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use edge::{ConnectError, Edge, EdgeConfig, Sandboxes, Target, WakeError};
use model::{GuestPort, NetworkPolicy, SandboxId, Secret};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

const REQUEST: &[u8] = b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: */*\r\n\
    e2b-sandbox-id: i0123456789abcdefghij\r\ne2b-sandbox-port: 49983\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
const SEQUENTIAL: usize = 20_000;
const CONNECTIONS: usize = 64;
const LOAD_TIME: Duration = Duration::from_secs(4);

struct OneGuest(SocketAddr);

#[async_trait]
impl Sandboxes for OneGuest {
    fn lookup(&self, _: &SandboxId) -> Option<Target> {
        let policy = NetworkPolicy { allow_public_traffic: true, ..NetworkPolicy::default() };
        Some(Target { envd_token: Some(Secret::new("token")), traffic_token: None, policy, asleep: false })
    }

    async fn wake(&self, _: &SandboxId) -> Result<(), WakeError> {
        Ok(())
    }

    fn find_by_envd_token(&self, _: &mut dyn FnMut(&Secret) -> bool) -> Option<SandboxId> {
        None
    }

    async fn connect(&self, _: &SandboxId, _: GuestPort) -> Result<TcpStream, ConnectError> {
        Ok(TcpStream::connect(self.0).await?)
    }
}

/// A runtime on a thread of its own.
fn thread() -> Handle {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(std::future::pending::<()>()));
    handle
}

fn listen(on: &Handle) -> (TcpListener, SocketAddr) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let _inside = on.enter();
    (TcpListener::from_std(listener).unwrap(), addr)
}

/// Answers every request at once, with as little work as possible.
async fn guest(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {
                stream.write_all(RESPONSE).await.unwrap();
            }
        });
    }
}

/// Round trips one after the other on one connection; sorted.
fn round_trips(addr: SocketAddr) -> Vec<Duration> {
    let mut stream = StdStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut times: Vec<Duration> = (0..SEQUENTIAL)
        .map(|_| {
            let since = Instant::now();
            stream.write_all(REQUEST).unwrap();
            let (mut answer, mut length) = ([0; 4096], 0);
            while !answer[..length].ends_with(b"\r\n\r\nok") {
                length += stream.read(&mut answer[length..]).unwrap();
            }
            since.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Requests answered on many connections at once.
async fn load(addr: SocketAddr) -> u32 {
    let until = Instant::now() + LOAD_TIME;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(addr).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut answers = 0_u32;
                while Instant::now() < until {
                    stream.write_all(REQUEST).await.unwrap();
                    let (mut answer, mut length) = ([0; 4096], 0);
                    while !answer[..length].ends_with(b"\r\n\r\nok") {
                        length += stream.read(&mut answer[length..]).await.unwrap();
                    }
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    let mut answers = 0;
    for client in clients {
        answers += client.await.unwrap();
    }
    answers
}

/// Processor time of a runtime's thread.
fn processor_time(of: &Handle) -> Duration {
    let (send, receive) = std::sync::mpsc::channel();
    of.spawn(async move { send.send(clock_gettime(ClockId::ThreadCPUTime)).unwrap() });
    Duration::try_from(receive.recv().unwrap()).unwrap()
}

fn micros(times: &[Duration], percent: usize) -> f64 {
    times[times.len() * percent / 100].as_secs_f64() * 1e6
}

fn main() {
    let (guest_thread, edge_thread) = (thread(), thread());
    let (listener, guest_addr) = listen(&guest_thread);
    guest_thread.spawn(guest(listener));
    let (listener, edge_addr) = listen(&edge_thread);
    let edge = Edge::new(Arc::new(OneGuest(guest_addr)), EdgeConfig::default());
    edge_thread.spawn(edge::serve(listener, edge, axum::Router::new(), CancellationToken::new()));

    round_trips(edge_addr);
    let (floor, through) = (round_trips(guest_addr), round_trips(edge_addr));
    for (name, times) in [("direct", &floor), ("through the edge", &through)] {
        println!(
            "{name}: p50 {:.1} us, p95 {:.1} us, p99 {:.1} us",
            micros(times, 50),
            micros(times, 95),
            micros(times, 99)
        );
    }
    println!("added: p50 {:.1} us", micros(&through, 50) - micros(&floor, 50));

    let client = Builder::new_current_thread().enable_all().build().unwrap();
    let before = processor_time(&edge_thread);
    let since = Instant::now();
    let answers = client.block_on(load(edge_addr));
    let (spent, wall) = (processor_time(&edge_thread) - before, since.elapsed());
    println!(
        "{CONNECTIONS} connections: {:.0} requests/s, {:.0} requests per second of the edge's processor time ({:.1} us each)",
        f64::from(answers) / wall.as_secs_f64(),
        f64::from(answers) / spent.as_secs_f64(),
        spent.as_secs_f64() * 1e6 / f64::from(answers)
    );
}
