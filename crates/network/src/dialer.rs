//! TCP connections to guests, for a process that is not in their namespaces.

use std::io;
use std::net::{SocketAddrV4, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot};

use crate::namespace;

/// How many sockets can be asked for at once; whoever comes later waits. Making one takes some ten microseconds.
const QUEUE: usize = 256;

/// Makes TCP connections inside network namespaces. A socket belongs to the namespace that its thread is in when it
/// makes it and stays there, so one thread that travels serves a whole server. Cheap to clone; the thread ends with
/// the last one.
#[derive(Debug, Clone)]
pub struct Dialer {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Request {
    netns: Arc<OwnedFd>,
    answer: oneshot::Sender<io::Result<OwnedFd>>,
}

impl Dialer {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let home = namespace::current()?;
        let (requests, waiting) = mpsc::channel(QUEUE);
        std::thread::Builder::new().name("dialer".to_owned()).spawn(move || serve(&home, waiting))?;
        Ok(Self { requests })
    }

    /// Connects to `addr` as seen from inside `netns`. Data is sent at once (`TCP_NODELAY`). The timeout covers
    /// everything, also the wait for the thread.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`]; [`io::ErrorKind::ConnectionRefused`] when nobody listens there; otherwise what the
    /// kernel says.
    pub async fn connect(
        &self,
        netns: &Arc<OwnedFd>,
        addr: SocketAddrV4,
        timeout: Duration,
    ) -> io::Result<TcpStream> {
        let connecting = async {
            let socket = TcpSocket::from_std_stream(StdTcpStream::from(self.socket(netns).await?));
            socket.set_nodelay(true)?;
            socket.connect(addr.into()).await
        };
        tokio::time::timeout(timeout, connecting).await.unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection to {addr} within {timeout:?}"),
            ))
        })
    }

    async fn socket(&self, netns: &Arc<OwnedFd>) -> io::Result<OwnedFd> {
        let gone = || io::Error::other("the thread that makes sockets inside namespaces has died");
        let (answer, answered) = oneshot::channel();
        let request = Request { netns: Arc::clone(netns), answer };
        self.requests.send(request).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

fn serve(home: &OwnedFd, mut waiting: mpsc::Receiver<Request>) {
    while let Some(request) = waiting.blocking_recv() {
        // Who timed out meanwhile needs no socket.
        if !request.answer.is_closed() {
            let made = namespace::enter(request.netns.as_fd()).and_then(|()| new_socket());
            // Fails when the caller left; the socket is closed then.
            let _ = request.answer.send(made);
        }
        // A thread that stayed would keep the namespace of a sandbox that is gone.
        if waiting.is_empty()
            && let Err(error) = namespace::enter(home.as_fd())
        {
            tracing::error!(%error, "the thread that makes sockets could not leave a sandbox's namespace");
        }
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).map_err(Into::into)
}
