//! The real daemon with a directory of its own, and a client for everything about files: blocking, plain sockets, one
//! connection per request, so that tests decide about every byte.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "each test file uses a part of it")]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// Long enough for a busy machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running daemon and a directory for the test's files. Both go away with it.
pub struct Server {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Server {
    pub fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_envd"))
            .args(["-port", "0", "-no-cgroups"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        errors.read_line(&mut line).unwrap();
        let port = line.trim().rsplit(' ').next().unwrap().parse().expect(&line);
        // What else it says belongs to the test's output.
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::stderr()));
        Self { child, port, directory: TempDir::new().unwrap() }
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The same as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a head without a body.
    pub fn begin(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> TcpStream {
        let mut stream = self.connect();
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        stream
    }

    pub fn request(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let length = body.len().to_string();
        let mut headers = headers.to_vec();
        headers.push(("content-length", &length));
        let mut stream = self.begin(method, target, &headers);
        // A daemon that refuses the head need not read the body.
        let _ = stream.write_all(body);
        Answer::read(stream, method)
    }

    pub fn get(&self, name: &str, headers: &[(&str, &str)]) -> Answer {
        self.request("GET", &files(&self.text(name)), headers, b"")
    }

    pub fn put(&self, name: &str, contents: &[u8]) -> Answer {
        self.put_with(name, &[], contents)
    }

    pub fn put_with(&self, name: &str, headers: &[(&str, &str)], contents: &[u8]) -> Answer {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/octet-stream"));
        self.request("POST", &files(&self.text(name)), &headers, contents)
    }

    /// A call of the file system service in JSON: the answer, or code and message.
    pub fn call(&self, method: &str, message: &Value) -> Result<Value, (String, String)> {
        self.call_with(method, message, &[])
    }

    pub fn call_with(
        &self,
        method: &str,
        message: &Value,
        headers: &[(&str, &str)],
    ) -> Result<Value, (String, String)> {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        let target = format!("/filesystem.Filesystem/{method}");
        let answer = self.request("POST", &target, &headers, message.to_string().as_bytes());
        let json = answer.json();
        if answer.status == 200 {
            return Ok(json);
        }
        let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
        Err((text("code"), text("message")))
    }

    /// The code with which a call fails.
    pub fn code(&self, method: &str, message: &Value) -> String {
        self.call(method, message).unwrap_err().0
    }

    /// A call with a stream of answers.
    pub fn stream(&self, method: &str, message: &Value, headers: &[(&str, &str)]) -> Stream {
        let message = message.to_string();
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(message.as_bytes());
        let length = frame.len().to_string();
        let mut headers = headers.to_vec();
        headers.extend([("content-type", "application/connect+json"), ("content-length", &length)]);
        let mut stream = self.begin("POST", &format!("/filesystem.Filesystem/{method}"), &headers);
        stream.write_all(&frame).unwrap();
        let mut reader = BufReader::new(stream);
        let (status, headers) = read_head(&mut reader);
        assert_eq!(status, 200, "{headers:?}");
        Stream { body: Chunked { reader, left: 0, ended: false } }
    }

    /// How many descriptors the daemon has of files whose name contains this.
    pub fn descriptors(&self, name: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .filter(|target| target.to_string_lossy().contains(name))
            .count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, complete.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body was whole.
    pub complete: bool,
}

impl Answer {
    pub fn read(stream: TcpStream, method: &str) -> Self {
        let mut reader = BufReader::with_capacity(1 << 20, stream);
        let (mut status, mut headers) = read_head(&mut reader);
        while status == 100 {
            (status, headers) = read_head(&mut reader);
        }
        let mut answer = Self { status, headers, body: Vec::new(), complete: true };
        if method == "HEAD" || matches!(status, 204 | 304) {
            return answer;
        }
        answer.complete = if answer.header("transfer-encoding") == Some("chunked") {
            let mut chunked = Chunked { reader, left: 0, ended: false };
            chunked.read_to_end(&mut answer.body).is_ok()
        } else {
            let length = answer.header("content-length").unwrap().parse().unwrap();
            reader.take(length).read_to_end(&mut answer.body).is_ok_and(|read| read as u64 == length)
        };
        answer
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The message of an error, whose form is checked.
    pub fn message(&self) -> String {
        let json = self.json();
        assert_eq!(json["code"], self.status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json; charset=utf-8"));
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"));
        json["message"].as_str().unwrap().to_owned()
    }
}

fn read_head(reader: &mut BufReader<TcpStream>) -> (u16, Vec<(String, String)>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).expect(&head), 0, "no answer: {head:?}");
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let headers = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    (status, headers)
}

struct Chunked {
    reader: BufReader<TcpStream>,
    left: usize,
    ended: bool,
}

impl Read for Chunked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.ended {
            let mut line = String::new();
            while line.trim().is_empty() {
                line.clear();
                if self.reader.read_line(&mut line)? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            self.ended = self.left == 0;
        }
        let room = buffer.len().min(self.left);
        let length = self.reader.read(&mut buffer[..room])?;
        if length == 0 && room > 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= length;
        Ok(length)
    }
}

/// A stream of messages.
pub struct Stream {
    body: Chunked,
}

impl Stream {
    /// The next message; the last one has the key `error` or no key at all.
    pub fn next(&mut self) -> Value {
        let mut head = [0; 5];
        self.body.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut message = vec![0; usize::try_from(length).unwrap()];
        self.body.read_exact(&mut message).unwrap();
        serde_json::from_slice(&message).unwrap()
    }

    /// The next change of a watched directory, as name and type.
    pub fn change(&mut self) -> (String, String) {
        let message = self.next();
        let event = &message["filesystem"];
        assert!(event.is_object(), "{message}");
        change(event)
    }
}

/// Name and type of an event.
pub fn change(event: &Value) -> (String, String) {
    let text = |key: &str| event[key].as_str().unwrap().trim_start_matches("EVENT_TYPE_").to_owned();
    (text("name"), text("type"))
}

/// The target of a request for a path.
pub fn files(path: &str) -> String {
    format!("/files?path={}", encode(path))
}

pub fn encode(text: &str) -> String {
    let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| if keep(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Bytes without a pattern that would make a mistake go unnoticed: noise, with a number in each block of it.
pub fn noise(length: usize) -> Vec<u8> {
    const BLOCK: usize = 1 << 20;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = Vec::with_capacity(BLOCK);
    while block.len() < BLOCK.min(length + 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        block.extend_from_slice(&state.to_le_bytes());
    }
    let mut bytes = Vec::with_capacity(length + BLOCK);
    while bytes.len() < length {
        block[..8].copy_from_slice(&(bytes.len() as u64).to_be_bytes());
        bytes.extend_from_slice(&block);
    }
    bytes.truncate(length);
    bytes
}

/// Waits until something is true.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A small file system of its own, unmounted at the end.
pub struct Mount(PathBuf);

impl Mount {
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        std::fs::create_dir(at).unwrap();
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).status().unwrap();
        assert!(status.success());
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
