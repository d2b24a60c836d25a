//! Part of `coldframe bench envd`: how soon a port that only loopback reaches answers, and a closed one is told.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use loopback::AskError;
use model::GuestPort;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::report::{Samples, bar};

/// Measures so often, by a daemon that takes us for its host.
pub(super) async fn run(daemon: SocketAddr, count: usize) -> Result<(), String> {
    let (mut floor, mut asked, mut refused) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..count {
        floor.push(first_byte(None).await.map_err(|error| error.to_string())?);
        asked.push(first_byte(Some(daemon)).await.map_err(|error| error.to_string())?);
        refused.push(closed(daemon).await.map_err(|error| error.to_string())?);
    }
    floor.print("floor: bind to first byte, direct");
    asked.print("bind to first byte by CONNECT");
    refused.print("closed port by CONNECT");
    let p99 = asked.percentile(99).as_secs_f64() * 1e3;
    bar("bind to first byte, p99", p99, "ms", p99 <= 100.0, "<= 100 ms");
    floor.print_raw("floor: bind to first byte, direct");
    asked.print_raw("bind to first byte by CONNECT");
    Ok(())
}

/// From binding a port to the first byte from it, by the daemon or directly.
async fn first_byte(daemon: Option<SocketAddr>) -> io::Result<Duration> {
    let begun = Instant::now();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let program = async {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"!").await
    };
    let client = async {
        let mut stream = match daemon {
            Some(daemon) => ask(daemon, address).await?,
            None => TcpStream::connect(address).await?,
        };
        stream.read_u8().await
    };
    tokio::try_join!(program, client)?;
    Ok(begun.elapsed())
}

/// How long a port takes on which nobody listens.
async fn closed(daemon: SocketAddr) -> io::Result<Duration> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
    let begun = Instant::now();
    match ask(daemon, address).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(begun.elapsed()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other(format!("{address} is closed, but envd connected to it"))),
    }
}

async fn ask(daemon: SocketAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let port = GuestPort::new(address.port()).ok_or(io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect(daemon).await?;
    loopback::ask(&mut stream, port).await.map_err(|error| match error {
        AskError::Refused => io::ErrorKind::ConnectionRefused.into(),
        other => io::Error::other(other),
    })?;
    Ok(stream)
}
