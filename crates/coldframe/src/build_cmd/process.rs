//! A shell or a command in the guest.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

use super::machine::Machine;
use crate::exec::{self, Event, Events, Input};
use crate::http::{Connection, as_user};

/// What is typed at once.
const INPUT_BYTES: usize = 32 << 10;
/// The status of whatever did not end by itself.
const NOT_EXITED: u8 = 255;
/// What a terminal is that does not say so.
const TERMINAL: &str = "xterm-256color";

/// Runs a command with the guest's shell. Its status.
pub(super) async fn command(machine: &Machine<'_>, user: &str, text: &str) -> Result<u8, String> {
    follow(started(machine, user, &["/bin/bash", "-l", "-c", text]).await?, Shown::Ours, None).await
}

/// The same with the shell that every guest has, as a login shell. Its status.
pub(super) async fn script(
    machine: &Machine<'_>,
    user: &str,
    text: &str,
    shown: Shown,
) -> Result<u8, String> {
    follow(started(machine, user, &["/bin/sh", "-lc", text]).await?, shown, None).await
}

async fn started(machine: &Machine<'_>, user: &str, words: &[&str]) -> Result<Events, String> {
    let process = json!({ "cmd": words.first(), "args": words.get(1..) });
    let mut guest = connect(machine, user).await?;
    exec::start(&mut guest, &json!({ "process": process, "stdin": false })).await
}

/// Starts the same and does not wait for its end.
pub(super) async fn running(machine: &Machine<'_>, user: &str, text: &str) -> Result<Running, String> {
    let events = started(machine, user, &["/bin/sh", "-lc", text]).await?;
    Ok(Running(tokio::spawn(follow(events, Shown::Aside, None))))
}

/// A process that runs on when nobody looks any more.
#[derive(Debug)]
pub(super) struct Running(tokio::task::JoinHandle<Result<u8, String>>);

impl Running {
    /// Its status, when it has ended.
    pub(super) async fn ended(&mut self) -> Result<u8, String> {
        (&mut self.0).await.map_err(|error| error.to_string())?
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where what a process prints is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// Each output as ours.
    Ours,
    /// All of it as our standard error.
    Aside,
    /// Nowhere.
    Not,
}

/// Runs a shell until it ends: on our terminal, or with what comes in.
pub(super) async fn shell(machine: &Machine<'_>, user: &str) -> Result<u8, String> {
    let stdin = io::stdin();
    let (input, arguments) = if stdin.is_terminal() { (Input::Terminal, "-il") } else { (Input::Pipe, "-l") };
    let terminal = std::env::var("TERM").unwrap_or_else(|_| TERMINAL.into());
    let process = json!({ "cmd": "/bin/bash", "args": [arguments], "envs": { "TERM": terminal } });
    let mut request = json!({ "process": process });
    let (columns, rows) = size();
    if input == Input::Terminal {
        request["pty"] = json!({ "size": { "cols": columns, "rows": rows } });
    }
    let mut guest = connect(machine, user).await?;
    let events = exec::start(&mut guest, &request).await?;
    // From here on every key is the guest's.
    let _raw = match input {
        Input::Terminal => Some(Raw::enter().map_err(|error| format!("taking the terminal: {error}"))?),
        Input::Pipe => None,
    };
    let typing = connect(machine, user).await?;
    follow(events, Shown::Ours, Some((typing, input))).await
}

async fn connect(machine: &Machine<'_>, user: &str) -> Result<Connection, String> {
    Connection::over(machine.connect().await?, vec![as_user(user)]).await
}

/// Shows what a process prints, has it read what is typed, and returns its status.
async fn follow(
    mut events: Events,
    shown: Shown,
    mut typing: Option<(Connection, Input)>,
) -> Result<u8, String> {
    let mut typist = None;
    while let Some(event) = events.next().await? {
        match event {
            Event::Started(pid) => {
                if let Some((connection, input)) = typing.take() {
                    // Ends with this process, at the latest.
                    typist = Some(Typist(tokio::spawn(typed(connection, pid, input))));
                }
            }
            Event::Output(bytes) if shown == Shown::Ours => show(&mut io::stdout(), &bytes)?,
            Event::Output(bytes) | Event::Error(bytes) if shown != Shown::Not => {
                show(&mut io::stderr(), &bytes)?;
            }
            Event::Output(_) | Event::Error(_) => {}
            Event::Exited(status) => {
                drop(typist);
                return Ok(u8::try_from(status).unwrap_or(NOT_EXITED));
            }
            Event::Ended(how) => {
                eprintln!("coldframe: it ended: {how}");
                return Ok(NOT_EXITED);
            }
        }
    }
    Err("it is not known how it ended".into())
}

fn show(into: &mut impl Write, bytes: &[u8]) -> Result<(), String> {
    into.write_all(bytes).and_then(|()| into.flush()).map_err(|error| format!("showing its output: {error}"))
}

/// The task that passes on what is typed.
struct Typist(tokio::task::JoinHandle<()>);

impl Drop for Typist {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes on what is typed, and how large the terminal is.
async fn typed(mut connection: Connection, pid: u64, input: Input) {
    let passed = async {
        let mut resized = signal(SignalKind::window_change()).map_err(|error| error.to_string())?;
        let (mut stdin, mut buffer) = (tokio::io::stdin(), vec![0; INPUT_BYTES]);
        loop {
            tokio::select! {
                read = stdin.read(&mut buffer) => match read.map_err(|error| error.to_string())? {
                    0 if input == Input::Pipe => return exec::end_input(&mut connection, pid).await,
                    0 => return Ok(()),
                    length => exec::type_in(&mut connection, pid, input, &buffer[..length]).await?,
                },
                _ = resized.recv(), if input == Input::Terminal => {
                    let (columns, rows) = size();
                    exec::resize(&mut connection, pid, columns, rows).await?;
                }
            }
        }
    };
    let passed: Result<(), String> = passed.await;
    if let Err(error) = passed {
        // A process that is gone reads nothing, and says so itself.
        tracing::debug!(error, "passing on what is typed");
    }
}

/// Columns and rows of our terminal.
fn size() -> (u16, u16) {
    match tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => (80, 24),
    }
}

/// Our terminal while it passes on every key as it is.
struct Raw(Termios);

impl Raw {
    fn enter() -> rustix::io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.0);
    }
}
