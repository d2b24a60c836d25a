//! The real daemon on a free port, and a small client of the tests' own: blocking, one connection per request.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Long enough for a busy machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running daemon. Ends with the test.
pub struct Daemon {
    child: Child,
    pub port: u16,
}

impl Daemon {
    pub fn start() -> Self {
        Self::with_args(&[])
    }

    pub fn with_args(args: &[&str]) -> Self {
        Self::with_command(&mut Command::new(env!("CARGO_BIN_EXE_envd")), args)
    }

    /// The daemon as started by another program, which becomes it.
    pub fn with_command(command: &mut Command, args: &[&str]) -> Self {
        // Those of the machine are none of a test's business.
        if !args.contains(&"-cgroup-root") {
            command.arg("-no-cgroups");
        }
        let mut child = command.args(["-port", "0"]).args(args).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        errors.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(' ').next().unwrap().parse().expect(&line);
        // What else it says belongs to the test's output.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        Self { child, port }
    }

    pub fn client(&self) -> Client {
        Client { port: self.port, headers: Vec::new() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends requests.
#[derive(Clone)]
pub struct Client {
    port: u16,
    headers: Vec<(String, String)>,
}

/// An answer, complete.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Client {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn user(self, name: &str) -> Self {
        let credentials = STANDARD.encode(format!("{name}:"));
        self.header("authorization", &format!("Basic {credentials}"))
    }

    pub fn token(self, token: &str) -> Self {
        self.header("x-access-token", token)
    }

    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Connection {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        if !content_type.is_empty() {
            head += &format!("content-type: {content_type}\r\n");
        }
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // A daemon that refuses the head need not read the body.
        let _ = stream.write_all(body);
        Connection::new(stream)
    }

    pub fn http(&self, method: &str, path: &str, body: &str) -> Answer {
        let content_type = if body.is_empty() { "" } else { "application/json" };
        self.send(method, path, content_type, body.as_bytes()).finish()
    }

    pub fn raw(&self, path: &str, content_type: &str, body: &[u8]) -> Answer {
        self.send("POST", path, content_type, body).finish()
    }

    /// A call with one answer: the message, or the code of the error.
    pub fn call(&self, method: &str, message: &Value) -> Result<Value, String> {
        let answer = self.http("POST", &format!("/process.Process/{method}"), &message.to_string());
        let json = answer.json();
        if answer.status == 200 { Ok(json) } else { Err(json["code"].as_str().unwrap().to_owned()) }
    }

    /// A call with a stream of answers.
    pub fn stream(&self, method: &str, message: &Value) -> Events {
        let body = envelope(message.to_string().as_bytes());
        let path = format!("/process.Process/{method}");
        let connection = self.send("POST", &path, "application/connect+json", &body);
        assert_eq!(connection.status, 200, "{}", connection.head);
        Events { connection, pid: 0 }
    }

    /// Starts a program and waits until it runs.
    pub fn start(&self, message: &Value) -> Events {
        let mut events = self.stream("Start", message);
        match events.next() {
            Event::Start(pid) => events.pid = pid,
            other => panic!("{other:?}"),
        }
        events
    }

    /// Starts a shell command and waits until it runs.
    pub fn shell(&self, command: &str) -> Events {
        self.start(&shell(command))
    }

    /// Runs a shell command to its end.
    pub fn run(&self, command: &str) -> Outcome {
        self.shell(command).finish()
    }
}

/// A request to start a shell command as the SDKs send it, but without the login files.
pub fn shell(command: &str) -> Value {
    json!({"process": {"cmd": "/bin/bash", "args": ["-c", command]}, "stdin": false})
}

pub fn envelope(message: &[u8]) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

/// The receiving side of a request.
pub struct Connection {
    pub status: u16,
    pub head: String,
    reader: BufReader<TcpStream>,
    chunked: bool,
    /// Bytes left of the current chunk, or of the body.
    left: usize,
    ended: bool,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        let mut reader = BufReader::with_capacity(256 << 10, stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(reader.read_line(&mut head).unwrap(), 0, "no answer: {head:?}");
        }
        let lower = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = lower.contains("transfer-encoding: chunked");
        let left = lower
            .lines()
            .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
            .unwrap_or(0);
        Self { status, head, reader, chunked, left, ended: false }
    }

    fn finish(mut self) -> Answer {
        let mut body = Vec::new();
        self.read_to_end(&mut body).unwrap();
        Answer { status: self.status, head: self.head, body }
    }

    pub fn close(self) {
        self.reader.get_ref().shutdown(Shutdown::Both).unwrap();
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && self.chunked && !self.ended {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if line == "\r\n" {
                line.clear();
                self.reader.read_line(&mut line)?;
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            self.ended = self.left == 0;
        }
        let room = buffer.len().min(self.left);
        let length = self.reader.read(&mut buffer[..room])?;
        self.left -= length;
        Ok(length)
    }
}

/// What a process says.
#[derive(Debug, PartialEq)]
pub enum Event {
    Start(u32),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    Pty(Vec<u8>),
    Keepalive,
    End(Value),
    /// The stream is at its end, with the code of the error if there is one.
    Closed(Option<String>),
}

/// A stream of events.
pub struct Events {
    connection: Connection,
    pub pid: u32,
}

/// All that came until the end of a stream.
#[derive(Debug, Default)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub pty: Vec<u8>,
    /// The end event.
    pub end: Option<Value>,
    /// The code of the error that ended the stream.
    pub error: Option<String>,
}

impl Outcome {
    pub fn code(&self) -> i64 {
        let end = self.end.as_ref().unwrap_or_else(|| panic!("{self:?}"));
        end["exitCode"].as_i64().unwrap_or(0)
    }

    pub fn out(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

impl Events {
    /// One message as it is on the wire.
    pub fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.connection.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; usize::try_from(length).unwrap()];
        self.connection.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    pub fn next(&mut self) -> Event {
        let (flags, body) = self.frame();
        let json: Value = serde_json::from_slice(&body).unwrap();
        if flags == 2 {
            return Event::Closed(json["error"]["code"].as_str().map(str::to_owned));
        }
        assert_eq!(flags, 0);
        let event = &json["event"];
        let (kind, content) = event.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "start" => Event::Start(u32::try_from(content["pid"].as_u64().unwrap()).unwrap()),
            "end" => Event::End(content.clone()),
            "keepalive" => Event::Keepalive,
            "data" => {
                let (source, data) = content.as_object().unwrap().iter().next().unwrap();
                let data = STANDARD.decode(data.as_str().unwrap()).unwrap();
                match source.as_str() {
                    "stdout" => Event::Stdout(data),
                    "stderr" => Event::Stderr(data),
                    "pty" => Event::Pty(data),
                    other => panic!("{other}"),
                }
            }
            other => panic!("{other}"),
        }
    }

    /// Reads until what the process has printed contains the text.
    pub fn until(&mut self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.next() {
                Event::Stdout(data) | Event::Stderr(data) | Event::Pty(data) => seen.extend(data),
                Event::Keepalive => {}
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&seen)),
            }
            let all = String::from_utf8_lossy(&seen);
            if all.contains(text) {
                return all.into_owned();
            }
        }
    }

    pub fn finish(mut self) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.next() {
                Event::Start(_) | Event::Keepalive => {}
                Event::Stdout(data) => outcome.stdout.extend(data),
                Event::Stderr(data) => outcome.stderr.extend(data),
                Event::Pty(data) => outcome.pty.extend(data),
                Event::End(end) => outcome.end = Some(end),
                Event::Closed(error) => {
                    outcome.error = error;
                    return outcome;
                }
            }
        }
    }

    /// Goes away without a word.
    pub fn disconnect(self) {
        self.connection.close();
    }
}

/// Waits until something is true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
