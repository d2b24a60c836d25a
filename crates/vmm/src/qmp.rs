//! A client for QMP, QEMU's control protocol: one JSON object per line, in both directions.
//!
//! QEMU may be in the hands of its guest, so what it says is bounded in size and time, and nothing it says is believed to
//! be more than it is: answers nobody asked for are dropped, and a connection that breaks the protocol is closed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// The longest message that is read, in bytes. QEMU's longest are descriptions of itself, which we never ask for.
const MAX_MESSAGE: u64 = 1 << 20;

/// How many answers may wait to be looked at. We ask one thing at a time; more is noise.
const MAX_WAITING: usize = 16;

/// How long QEMU may take from its start to its greeting. Normally 40 ms; a host that is busy starting many needs more.
const GREETING: Duration = Duration::from_secs(20);

/// How long QEMU may take for an ordinary command.
const COMMAND: Duration = Duration::from_secs(10);

/// Why QEMU could not be talked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// The socket failed.
    #[error("the QMP connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// QEMU closed the connection.
    #[error("the QMP connection was closed")]
    Closed,
    /// QEMU did not answer in time.
    #[error("QEMU did not answer {what} within {seconds} s", seconds = limit.as_secs())]
    Timeout {
        /// What it was asked.
        what: String,
        /// How long it had.
        limit: Duration,
    },
    /// QEMU said something that is not QMP.
    #[error("QEMU broke the QMP protocol: {0}")]
    Protocol(String),
    /// QEMU refused.
    #[error("QEMU refused {command}: {class}: {description}")]
    Refused {
        /// What it was asked.
        command: String,
        /// Its kind of error.
        class: String,
        /// Its words.
        description: String,
    },
}

/// What QEMU says of itself without being asked, as far as we care.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Why the machine ends: `guest-shutdown`, `guest-reset`, `host-qmp-quit`, …
    pub(crate) shutdown: Option<String>,
    /// The virtual processors do not run, and nobody asked for that.
    pub(crate) stopped: bool,
    /// Nothing more will come.
    pub(crate) closed: bool,
}

/// A QMP connection on which QEMU takes commands, one at a time.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: OwnedWriteHalf,
    answers: mpsc::Receiver<Answer>,
    last_id: u64,
}

#[derive(Debug)]
struct Answer {
    id: u64,
    result: Result<Value, ErrorBody>,
}

/// Everything QEMU sends. Which of the fields are there says what it is.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    value: Option<Value>,
    error: Option<ErrorBody>,
    id: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct ErrorBody {
    class: String,
    desc: String,
}

impl Qmp {
    /// Takes over the connection to a QEMU that is starting. What it says unasked can be watched from the start, also
    /// when it never gets ready: [`Observed::closed`] comes in every case.
    pub(crate) fn open(stream: UnixStream) -> (Opening, watch::Receiver<Observed>) {
        let (reader, writer) = stream.into_split();
        let (sender, answers) = mpsc::channel(MAX_WAITING);
        let (greeted, greeting) = tokio::sync::oneshot::channel();
        let (observe, observed) = watch::channel(Observed::default());
        let failure = Arc::new(Mutex::new(None));
        let opening =
            Opening { greeting, failure: failure.clone(), qmp: Self { writer, answers, last_id: 0 } };
        tokio::spawn(async move {
            let mut lines = Lines::new(reader);
            let mut greeted = Some(greeted);
            let end = loop {
                match lines.next().await {
                    Ok(message) => dispatch(message, &mut greeted, &sender, &observe),
                    Err(error) => break error,
                }
            };
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
            observe.send_modify(|observed| observed.closed = true);
            // Dropping the senders wakes who waits for an answer.
        });
        (opening, observed)
    }

    /// Asks QEMU to do `command` and returns what it answers.
    ///
    /// # Errors
    /// When QEMU refuses, takes longer than an ordinary command may, or is gone.
    pub(crate) async fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, QmpError> {
        self.last_id += 1;
        let id = self.last_id;
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let line = format!("{request}\n");
        let exchange = async {
            self.writer.write_all(line.as_bytes()).await?;
            loop {
                let answer = self.answers.recv().await.ok_or(QmpError::Closed)?;
                // An older one is the late answer to a command that was given up.
                if answer.id == id {
                    return answer.result.map_err(|error| QmpError::Refused {
                        command: command.to_owned(),
                        class: printable(&error.class),
                        description: printable(&error.desc),
                    });
                }
            }
        };
        timeout(COMMAND, exchange)
            .await
            .unwrap_or_else(|_| Err(QmpError::Timeout { what: command.to_owned(), limit: COMMAND }))
    }
}

/// A connection on which QEMU has not said hello yet.
#[derive(Debug)]
pub(crate) struct Opening {
    greeting: tokio::sync::oneshot::Receiver<()>,
    failure: Arc<Mutex<Option<QmpError>>>,
    qmp: Qmp,
}

impl Opening {
    /// Waits for QEMU's greeting and makes it ready for commands.
    ///
    /// # Errors
    /// When it does not greet in time, or not as it should.
    pub(crate) async fn ready(self) -> Result<Qmp, QmpError> {
        let Self { greeting, failure, mut qmp } = self;
        let why =
            || failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(QmpError::Closed);
        match timeout(GREETING, greeting).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(why()),
            Err(_) => return Err(QmpError::Timeout { what: "with its greeting".into(), limit: GREETING }),
        }
        qmp.execute("qmp_capabilities", &Value::Null).await?;
        Ok(qmp)
    }
}

fn dispatch(
    message: Message,
    greeted: &mut Option<tokio::sync::oneshot::Sender<()>>,
    answers: &mpsc::Sender<Answer>,
    observe: &watch::Sender<Observed>,
) {
    if message.greeting.is_some() {
        if let Some(greeted) = greeted.take() {
            let _ = greeted.send(());
        }
    } else if let Some(event) = message.event {
        match event.as_str() {
            "SHUTDOWN" => {
                let reason =
                    message.data.as_ref().and_then(|data| data["reason"].as_str()).unwrap_or("unknown");
                observe.send_modify(|observed| observed.shutdown = Some(printable(reason)));
            }
            "STOP" => observe.send_modify(|observed| observed.stopped = true),
            "RESUME" => observe.send_modify(|observed| observed.stopped = false),
            _ => {}
        }
    } else if let Some(id) = message.id {
        let result = message.error.map_or_else(|| Ok(message.value.unwrap_or(Value::Null)), Err);
        // Full only if QEMU answers what nobody asked.
        let _ = answers.try_send(Answer { id, result });
    }
}

/// Words of QEMU that go into our messages: bounded, and nothing a terminal obeys.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}

struct Lines {
    reader: BufReader<OwnedReadHalf>,
    line: Vec<u8>,
}

impl Lines {
    fn new(reader: OwnedReadHalf) -> Self {
        Self { reader: BufReader::with_capacity(2048, reader), line: Vec::new() }
    }

    async fn next(&mut self) -> Result<Message, QmpError> {
        self.line.clear();
        read_line(&mut self.reader, &mut self.line).await?;
        let message =
            serde_json::from_slice(&self.line).map_err(|error| QmpError::Protocol(error.to_string()));
        self.line.shrink_to(4096);
        message
    }
}

async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> Result<(), QmpError> {
    reader.take(MAX_MESSAGE).read_until(b'\n', line).await?;
    match line.last() {
        Some(b'\n') => Ok(()),
        None => Err(QmpError::Closed),
        Some(_) if line.len() as u64 == MAX_MESSAGE => {
            Err(QmpError::Protocol(format!("a message longer than {MAX_MESSAGE} bytes")))
        }
        Some(_) => Err(QmpError::Closed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";

    /// Plays QEMU: says `first`, then answers every line with what `reply` makes of it.
    async fn play(
        first: &'static [u8],
        reply: impl Fn(Value) -> String + Send + 'static,
    ) -> (Opening, watch::Receiver<Observed>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            writer.write_all(first).await?;
            let mut lines = BufReader::new(reader).lines();
            while let Some(line) = lines.next_line().await? {
                let text = reply(serde_json::from_str(&line)?);
                if text == "close" {
                    break;
                }
                writer.write_all(text.as_bytes()).await?;
            }
            std::io::Result::Ok(())
        });
        Qmp::open(ours)
    }

    fn ok(request: &Value) -> String {
        format!("{}\r\n", json!({ "return": {}, "id": request["id"] }))
    }

    #[tokio::test]
    async fn answers_find_their_questions() {
        let (opening, _) = play(HELLO, |request| match request["execute"].as_str().unwrap() {
            "qmp_capabilities" => ok(&request),
            "query-status" => format!(
                "{}\n{}\n{}\n",
                json!({ "return": "of something else", "id": 4711 }),
                json!({ "event": "RESUME", "timestamp": {} }),
                json!({ "return": { "got": request["arguments"] }, "id": request["id"] }),
            ),
            _ => format!(
                "{}\n",
                json!({ "error": { "class": "CommandNotFound", "desc": "no \u{7}" }, "id": request["id"] })
            ),
        })
        .await;
        let mut qmp = opening.ready().await.unwrap();
        let value = qmp.execute("query-status", &json!({ "a": 1 })).await.unwrap();
        assert_eq!(value, json!({ "got": { "a": 1 } }));
        let error = qmp.execute("fly", &Value::Null).await.unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused fly: CommandNotFound: no ");
        assert!(qmp.execute("query-status", &Value::Null).await.is_ok(), "an error ends nothing");
    }

    #[tokio::test]
    async fn events_are_observed_until_the_end() {
        const EVENTS: &[u8] =
            b"{\"QMP\": {}}\n{\"event\": \"STOP\"}\n{\"event\": \"BALLOON\", \"data\": 7}\n\
            {\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n";
        let (opening, mut observed) = play(EVENTS, |_| "close".into()).await;
        assert!(matches!(opening.ready().await, Err(QmpError::Closed)));
        let end = observed.wait_for(|observed| observed.closed).await.unwrap().clone();
        assert_eq!(end, Observed { shutdown: Some("guest-reset".into()), stopped: true, closed: true });
    }

    #[tokio::test]
    async fn nonsense_closes_the_connection_with_a_reason() {
        let deep: &'static [u8] =
            Box::leak(["[".repeat(100_000), "\n".into()].concat().into_bytes().into_boxed_slice());
        let long: &'static [u8] = Box::leak(vec![b' '; 3 << 20].into_boxed_slice());
        for first in [b"hello\n".as_slice(), b"\xff\xfe\n", b"{\"QMP\"\n", b"{\"event\": 3}\n", deep, long] {
            let (opening, mut observed) = play(first, |request| ok(&request)).await;
            let error = opening.ready().await.unwrap_err();
            assert!(matches!(error, QmpError::Protocol(_)), "{error}");
            observed.wait_for(|observed| observed.closed).await.unwrap();
        }
        let (opening, _) = play(b"", |_| "close".into()).await;
        let waiting = tokio::time::timeout(Duration::from_millis(50), opening.ready()).await;
        assert!(waiting.is_err(), "silence is waited out");
    }

    #[tokio::test]
    async fn a_qemu_that_talks_too_much_is_not_remembered() {
        let (opening, _) = play(HELLO, |request| {
            let noise =
                (1000..3000).map(|id| format!("{{\"return\": {{}}, \"id\": {id}}}\n")).collect::<String>();
            if request["execute"] == "qmp_capabilities" { ok(&request) + &noise } else { ok(&request) }
        })
        .await;
        let mut qmp = opening.ready().await.unwrap();
        // Some of the noise may have taken the place of an answer; what must not happen is to take noise for one.
        if let Ok(value) =
            tokio::time::timeout(Duration::from_secs(1), qmp.execute("stop", &Value::Null)).await
        {
            assert_eq!(value.unwrap(), json!({}));
        }
        assert!(qmp.answers.len() <= MAX_WAITING);
    }
}
