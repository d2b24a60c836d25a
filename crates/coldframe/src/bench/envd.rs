//! `coldframe bench envd`: the guest daemon outside a guest, over loopback, each figure beside its floor.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;

use super::report::{Samples, bar};
use super::{ports, processes, spawn, streams};
use crate::http::{Connection, as_user, full};

const STREAM_BYTES: usize = 512 << 20;
const FILE_BYTES: usize = 256 << 20;
const COPY_CHUNK: usize = 256 << 10;
/// Repetitions of each throughput figure; the best of both sides is compared, since noise only slows.
const ROUNDS: usize = 5;
const STARTS: usize = 20;
const READY_PATIENCE: Duration = Duration::from_secs(5);
/// Takes who connects over loopback for its host. Nobody hears that it is ready.
const AS_HOST: [&str; 2] = ["-host", "127.0.0.1:9"];
const MIB: f64 = 1024.0 * 1024.0;

/// A daemon of the bench's own.
struct Envd {
    child: Child,
    address: SocketAddr,
    ready: Duration,
}

impl Envd {
    fn start(program: &Path, options: &[&str]) -> Result<Self, String> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|l| l.local_addr())
            .map_err(|e| e.to_string())?;
        let begun = Instant::now();
        let child = Command::new(program)
            .args(["-isnotfc", "-no-cgroups", "-port", &port.port().to_string()])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("starting envd: {error}"))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.port()));
        let mut envd = Self { child, address, ready: Duration::ZERO };
        loop {
            if crate::up::healthy(&format!("http://{address}")) {
                envd.ready = begun.elapsed();
                return Ok(envd);
            }
            if begun.elapsed() > READY_PATIENCE || !matches!(envd.child.try_wait(), Ok(None)) {
                return Err("envd did not become ready".into());
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn rss_mib(&self) -> Result<f64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
        kib.map(|kib: f64| kib / 1024.0).ok_or_else(|| "no VmRSS".into())
    }
}

impl Drop for Envd {
    fn drop(&mut self) {
        // Nothing to do about a child that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn run(count: usize) -> Result<(), String> {
    let dir = tempfile::Builder::new()
        .prefix("coldframe-bench-")
        .tempdir_in("/dev/shm")
        .map_err(|e| e.to_string())?;
    let program = dir.path().join("envd");
    let embedded = crate::guest::envd()?;
    File::options()
        .create_new(true)
        .write(true)
        .mode(0o700)
        .open(&program)
        .and_then(|mut file| file.write_all(&embedded))
        .map_err(|error| format!("writing envd to {}: {error}", program.display()))?;
    #[allow(clippy::cast_precision_loss, reason = "a size in MiB")]
    let size = embedded.len() as f64 / MIB;
    bar("binary", size, "MiB", size <= 5.0 * 1e6 / MIB, "<= 5 MB");

    let mut ready = Samples::default();
    for _ in 0..STARTS {
        ready.push(Envd::start(&program, &[])?.ready);
    }
    ready.print("ready after exec");
    let p50 = ready.percentile(50).as_secs_f64() * 1e3;
    bar("ready after exec", p50, "ms", p50 <= 10.0, "<= 10 ms");

    let envd = Envd::start(&program, &[])?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rss = envd.rss_mib()?;
    bar("idle RSS", rss, "MiB", rss <= 8.0, "<= 8 MB");

    starts(&envd, count).await?;
    processes::run(envd.address, envd.child.id()).await?;
    stream_stdout(&envd).await?;
    streams::run(envd.address).await?;
    files(&envd, dir.path()).await?;
    drop(envd);
    let envd = Envd::start(&program, &AS_HOST)?;
    ports::run(envd.address, count).await
}

async fn starts(envd: &Envd, count: usize) -> Result<(), String> {
    let mut connection = Connection::open(envd.address, vec![as_user("root")]).await?;
    let (mut rpc, mut floor, mut equal) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..count {
        let begun = Instant::now();
        // Without hooks in the child, the standard library uses posix_spawn.
        Command::new("/bin/true").status().map_err(|error| error.to_string())?;
        floor.push(begun.elapsed());
        equal.push(spawn::equally("/bin/true").map_err(|error| error.to_string())?);
        let begun = Instant::now();
        connection.command("/bin/true", &[]).await?;
        rpc.push(begun.elapsed());
    }
    floor.print("floor: posix_spawn + wait");
    equal.print("floor: spawn as envd + pipes + wait");
    rpc.print("start(/bin/true)");
    let (ratio, equally) = (rpc.ratio(&floor), rpc.ratio(&equal));
    bar("start(/bin/true)", ratio, "x floor", ratio <= 3.0, "<= 3 x");
    bar("start, as against an equal spawn", equally, "x floor", equally <= 1.5, "<= 1.5 x");
    floor.print_raw("floor: posix_spawn + wait");
    equal.print_raw("floor: spawn as envd + pipes + wait");
    rpc.print_raw("start(/bin/true)");
    Ok(())
}

async fn stream_stdout(envd: &Envd) -> Result<(), String> {
    let bytes = STREAM_BYTES.to_string();
    let arguments = ["-c", bytes.as_str(), "/dev/zero"];
    let (mut best, mut floor) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut child = Command::new("head")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        if let Some(mut output) = child.stdout.take() {
            drain(&mut output).map_err(|error| error.to_string())?;
        }
        child.wait().map_err(|error| error.to_string())?;
        floor = floor.max(rate(STREAM_BYTES, begun.elapsed()));
        let mut connection = Connection::open(envd.address, vec![as_user("root")]).await?;
        let begun = Instant::now();
        connection.command("/usr/bin/head", &arguments).await?;
        best = best.max(rate(STREAM_BYTES, begun.elapsed()));
    }
    println!("{:<34} {floor:>9.2} MiB/s", "floor: stdout through a pipe");
    bar("stdout stream (JSON)", best, "MiB/s", best >= 300.0, ">= 300");
    Ok(())
}

async fn files(envd: &Envd, dir: &Path) -> Result<(), String> {
    let source = dir.join("source");
    let write = |path: &PathBuf| fs::write(path, vec![b'x'; FILE_BYTES]).map_err(|error| error.to_string());
    write(&source)?;
    let (target, uploaded) = (dir.join("target"), dir.join("uploaded"));
    let chunk = Bytes::from(vec![b'x'; COPY_CHUNK]);
    let (mut floor, mut up, mut down) = (0.0_f64, 0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        floor = floor.max(rate(FILE_BYTES, tcp_copy(&source, &target).map_err(|error| error.to_string())?));

        let mut connection = Connection::open(envd.address, vec![as_user("root")]).await?;
        let chunks = stream::iter((0..FILE_BYTES / COPY_CHUNK).map({
            let chunk = chunk.clone();
            move |_| Ok::<_, io::Error>(Frame::data(chunk.clone()))
        }));
        let body = BodyExt::boxed(StreamBody::new(chunks));
        let begun = Instant::now();
        let path = format!("/files?path={}&username=root", uploaded.display());
        let answer = connection.send("POST", &path, "application/octet-stream", body).await?;
        let (status, text) = crate::http::collect(answer).await?;
        up = up.max(rate(FILE_BYTES, begun.elapsed()));
        if !status.is_success() {
            return Err(format!("upload: {status}: {}", String::from_utf8_lossy(&text)));
        }

        let begun = Instant::now();
        let path = format!("/files?path={}&username=root", source.display());
        let mut body = connection.send("GET", &path, "application/octet-stream", full("")).await?.into_body();
        let mut received = 0;
        while let Some(frame) = body.frame().await {
            received += frame.map_err(|error| error.to_string())?.into_data().unwrap_or_default().len();
        }
        down = down.max(rate(FILE_BYTES, begun.elapsed()));
        if received != FILE_BYTES {
            return Err(format!("download: {received} of {FILE_BYTES} bytes"));
        }
    }
    println!("{:<34} {floor:>9.2} MiB/s", "floor: a file copied over raw TCP");
    bar("upload", up / floor * 100.0, "% floor", up / floor >= 0.6, ">= 60 %");
    bar("download", down / floor * 100.0, "% floor", down / floor >= 0.6, ">= 60 %");
    println!("{:<34} {up:>9.2} MiB/s up, {down:.2} MiB/s down", "files");
    Ok(())
}

/// Sends one file to another over a loopback connection, as plainly as it can be done.
fn tcp_copy(from: &Path, to: &Path) -> io::Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let mut target = File::create(to)?;
    let begun = Instant::now();
    let receiver = std::thread::spawn(move || -> io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut buffer = vec![0_u8; COPY_CHUNK];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                read => target.write_all(&buffer[..read])?,
            }
        }
    });
    let mut source = File::open(from)?;
    let mut stream = TcpStream::connect(address)?;
    let mut buffer = vec![0_u8; COPY_CHUNK];
    loop {
        match source.read(&mut buffer)? {
            0 => break,
            read => stream.write_all(&buffer[..read])?,
        }
    }
    drop(stream);
    receiver.join().map_err(|_| io::Error::other("the receiver panicked"))??;
    Ok(begun.elapsed())
}

fn drain(reader: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0_u8; COPY_CHUNK];
    while reader.read(&mut buffer)? > 0 {}
    Ok(())
}

/// MiB a second.
pub(super) fn rate(bytes: usize, time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let mib = bytes as f64 / MIB;
    mib / time.as_secs_f64().max(f64::EPSILON)
}
