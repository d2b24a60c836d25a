//! A running edge, guests to put behind it, and clients to put before it.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::Request as AxumRequest;
use bytes::Bytes;
use edge::{ConnectError, Edge, EdgeConfig, PeerAddr, Sandboxes, Target, WakeError};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use model::{GuestPort, NetworkPolicy, SandboxId, Secret};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Nothing in these tests takes longer unless it is broken.
pub const DEADLINE: Duration = Duration::from_secs(30);

pub const ENVD: u16 = model::ENVD_PORT;

/// Waits for something that must happen.
pub async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(DEADLINE, what).await.expect("it happens before the deadline")
}

/// Waits until a condition holds.
pub async fn until(mut holds: impl FnMut() -> bool) {
    soon(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub fn id(text: &str) -> SandboxId {
    text.parse().unwrap()
}

pub fn public() -> Target {
    Target {
        envd_token: None,
        traffic_token: None,
        policy: NetworkPolicy { allow_internet: false, allow_public_traffic: true, mask_request_host: None },
        asleep: false,
    }
}

type Ports = HashMap<u16, SocketAddr>;

/// Sandboxes whose ports are sockets on loopback.
#[derive(Default)]
pub struct World {
    sandboxes: Mutex<HashMap<SandboxId, (Target, Ports)>>,
    pub connects: AtomicUsize,
    /// Connections that are never made, for the deadline on making them.
    pub stuck: Mutex<Vec<SandboxId>>,
    /// Calls of `wake`, and those that are inside it.
    pub wakes: AtomicUsize,
    pub waking: AtomicUsize,
    /// Resumes that were carried out.
    pub resumes: AtomicUsize,
    /// Closed: who is asleep stays there.
    pub bed: Gate,
    /// What the next resumes fail with.
    pub wake_error: Mutex<Option<fn() -> WakeError>>,
    /// So many connections meet a sandbox that is paused just then.
    pub pauses: AtomicUsize,
}

/// Open unless somebody closed it.
pub struct Gate(watch::Sender<bool>);

impl Default for Gate {
    fn default() -> Self {
        Self(watch::Sender::new(true))
    }
}

impl Gate {
    pub fn close(&self) {
        self.0.send_replace(false);
    }

    pub fn open(&self) {
        self.0.send_replace(true);
    }

    async fn pass(&self) {
        self.0.subscribe().wait_for(|open| *open).await.unwrap();
    }
}

/// One that is counted in a number as long as it is there.
struct Inside<'a>(&'a AtomicUsize);

impl<'a> Inside<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl World {
    pub fn put(&self, name: &str, target: Target, ports: &[(u16, SocketAddr)]) {
        self.sandboxes.lock().unwrap().insert(id(name), (target, ports.iter().copied().collect()));
    }

    pub fn remove(&self, name: &str) {
        self.sandboxes.lock().unwrap().remove(&id(name));
    }

    /// Pauses a sandbox that traffic resumes.
    pub fn put_to_sleep(&self, name: &str) {
        self.sandboxes.lock().unwrap().get_mut(&id(name)).unwrap().0.asleep = true;
    }

    pub fn wakes(&self) -> usize {
        self.wakes.load(Ordering::SeqCst)
    }

    pub fn waking(&self) -> usize {
        self.waking.load(Ordering::SeqCst)
    }

    pub fn resumes(&self) -> usize {
        self.resumes.load(Ordering::SeqCst)
    }

    pub fn connects(&self) -> usize {
        self.connects.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Sandboxes for World {
    fn lookup(&self, id: &SandboxId) -> Option<Target> {
        self.sandboxes.lock().unwrap().get(id).map(|(target, _)| target.clone())
    }

    async fn wake(&self, id: &SandboxId) -> Result<(), WakeError> {
        self.wakes.fetch_add(1, Ordering::SeqCst);
        let _inside = Inside::new(&self.waking);
        self.bed.pass().await;
        if let Some(error) = *self.wake_error.lock().unwrap() {
            return Err(error());
        }
        let mut sandboxes = self.sandboxes.lock().unwrap();
        let (target, _) = sandboxes.get_mut(id).ok_or(WakeError::NotFound)?;
        if std::mem::take(&mut target.asleep) {
            self.resumes.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn find_by_envd_token(&self, matches: &mut dyn FnMut(&Secret) -> bool) -> Option<SandboxId> {
        let sandboxes = self.sandboxes.lock().unwrap();
        let found =
            sandboxes.iter().find(|(_, (target, _))| target.envd_token.as_ref().is_some_and(&mut *matches));
        found.map(|(id, _)| id.clone())
    }

    async fn connect(&self, id: &SandboxId, port: GuestPort) -> Result<TcpStream, ConnectError> {
        self.connects.fetch_add(1, Ordering::SeqCst);
        if self.stuck.lock().unwrap().contains(id) {
            std::future::pending::<()>().await;
        }
        let paused_now = |n: usize| n.checked_sub(1);
        let paused_now = self.pauses.fetch_update(Ordering::SeqCst, Ordering::SeqCst, paused_now).is_ok();
        let addr = match self.sandboxes.lock().unwrap().get_mut(id) {
            None => return Err(ConnectError::NotFound),
            Some((target, _)) if target.asleep || paused_now => {
                target.asleep = true;
                return Err(ConnectError::NotFound);
            }
            Some((_, ports)) => ports.get(&port.get()).copied(),
        };
        let addr = addr.ok_or(ConnectError::Refused)?;
        TcpStream::connect(addr).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => ConnectError::Refused,
            _ => ConnectError::Io(error),
        })
    }
}

/// An edge that serves, until it is dropped.
pub struct Served {
    pub addr: SocketAddr,
    pub edge: Edge,
    pub world: Arc<World>,
    pub shutdown: CancellationToken,
    pub done: tokio::task::JoinHandle<()>,
    _guard: DropGuard,
}

impl Served {
    pub async fn start() -> Self {
        Self::with(EdgeConfig::default()).await
    }

    pub async fn with(config: EdgeConfig) -> Self {
        let world = Arc::new(World::default());
        let edge = Edge::new(Arc::clone(&world) as Arc<dyn Sandboxes>, config);
        let listener = listen();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let api = Router::new().fallback(async |request: AxumRequest| {
            assert!(request.extensions().get::<PeerAddr>().is_some());
            format!("api {} {}", request.method(), request.uri())
        });
        let done = tokio::spawn(edge::serve(listener, edge.clone(), api, shutdown.clone()));
        Self { addr, edge, world, _guard: shutdown.clone().drop_guard(), shutdown, done }
    }

    /// An edge before one public sandbox `ione` with one port, and a request for that port.
    pub async fn one(guest: SocketAddr) -> Self {
        let served = Self::start().await;
        served.world.put("ione", public(), &[(80, guest)]);
        served
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// A request for port 80 of `ione`.
    pub fn request(&self, method: &str, path: &str) -> http::request::Builder {
        to(Request::builder().method(method).uri(self.url(path)), "ione", 80)
    }

    /// A bare connection to the edge.
    pub async fn connect(&self) -> Raw {
        Raw(TcpStream::connect(self.addr).await.unwrap())
    }
}

/// Adds the routing headers.
pub fn to(request: http::request::Builder, id: &str, port: u16) -> http::request::Builder {
    request.header("E2b-Sandbox-Id", id).header("E2b-Sandbox-Port", port)
}

/// A socket whose accept queue takes a burst.
pub fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    socket.listen(4096).unwrap()
}

/// A guest port with an axum application.
pub fn guest(app: Router) -> SocketAddr {
    let listener = listen();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    addr
}

/// A guest port that does with each connection what the test says.
pub fn raw_guest<F, R>(handle: F) -> SocketAddr
where
    F: Fn(Raw) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = listen();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(Raw(stream)));
        }
    });
    addr
}

/// A guest port that answers every request with the bytes of its header, as they arrived.
pub fn mirror() -> SocketAddr {
    raw_guest(|mut raw| async move {
        while let Some(head) = raw.try_head().await {
            raw.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len())).await;
        }
    })
}

/// A TCP connection spoken to by hand.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads a header block; `None` when the connection closed before one.
    pub async fn try_head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match soon(self.0.read_u8()).await {
                Ok(byte) => head.push(byte),
                Err(_) => return None,
            }
        }
        Some(String::from_utf8(head).unwrap())
    }

    pub async fn head(&mut self) -> String {
        self.try_head().await.expect("a header block arrives")
    }

    pub async fn exactly(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        soon(self.0.read_exact(&mut bytes)).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Reads until the other side closes. A reset ends it as well as an orderly close does.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let _ = soon(self.0.read_to_end(&mut bytes)).await;
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads one response with a content-length.
    pub async fn response(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        let body = self.exactly(length.map_or(0, |length| length.trim().parse().unwrap())).await;
        (head, body)
    }
}

pub type Sent = BoxBody<Bytes, std::io::Error>;
pub type HttpClient = Client<HttpConnector, Sent>;

pub fn empty() -> Sent {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub fn full(body: impl Into<Bytes>) -> Sent {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

/// A body of `pieces` times the same piece, of unknown length to HTTP.
pub fn pieces(pieces: usize, piece: Bytes) -> Sent {
    let frames =
        futures_util::stream::iter((0..pieces).map(move |_| Ok(http_body::Frame::data(piece.clone()))));
    http_body_util::StreamBody::new(frames).boxed()
}

pub fn http1() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// HTTP/2 with prior knowledge.
pub fn http2() -> HttpClient {
    Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

pub async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(soon(response.into_body().collect()).await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Status and body.
pub async fn ask(client: &HttpClient, request: Request<Sent>) -> (u16, String) {
    let response = soon(client.request(request)).await.unwrap();
    (response.status().as_u16(), text(response).await)
}
