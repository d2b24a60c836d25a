//! A client for QMP, QEMU's control protocol: one JSON object per line, in both directions.
//!
//! QEMU may be in the hands of its guest, so what it says is bounded in size and time, and nothing it says is believed to
//! be more than it is: answers nobody asked for are dropped, and a connection that breaks the protocol is closed.

mod lines;
mod observed;
mod send;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use lines::{ErrorBody, Lines, Message};

pub(crate) use lines::printable;
pub(crate) use observed::{Observed, Transfer};

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

/// A QMP connection on which QEMU takes commands, one at a time.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: OwnedWriteHalf,
    answers: mpsc::Receiver<Answer>,
    last_id: u64,
    /// A request went out in part only, for who sent it stopped waiting: what follows would be its rest.
    torn: bool,
    observe: Arc<watch::Sender<Observed>>,
}

#[derive(Debug)]
struct Answer {
    id: u64,
    result: Result<Value, ErrorBody>,
}

impl Qmp {
    /// Takes over the connection to a QEMU that is starting, `held` if it starts without running its virtual processors.
    /// What it says unasked can be watched from the start, also when it never gets ready: [`Observed::closed`] comes in
    /// every case.
    pub(crate) fn open(stream: UnixStream, held: bool) -> (Opening, watch::Receiver<Observed>) {
        let (reader, writer) = stream.into_split();
        let (sender, answers) = mpsc::channel(MAX_WAITING);
        let (greeted, greeting) = oneshot::channel();
        let (observe, observed) = watch::channel(Observed { held, ..Observed::default() });
        let observe = Arc::new(observe);
        let failure = Arc::new(Mutex::new(None));
        let qmp = Self { writer, answers, last_id: 0, torn: false, observe: Arc::clone(&observe) };
        let opening = Opening { greeting, failure: failure.clone(), qmp };
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
        self.request(command, arguments, None, COMMAND).await
    }

    /// Like [`Qmp::execute`] for a command that may take as long as `limit`.
    pub(crate) async fn execute_within(
        &mut self,
        command: &str,
        arguments: &Value,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        self.request(command, arguments, None, limit).await
    }

    /// Gives QEMU a copy of `fd`, which later commands call `name`, until one of them uses it up.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`].
    pub(crate) async fn pass(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), QmpError> {
        self.request("getfd", &json!({ "fdname": name }), Some(fd), COMMAND).await?;
        Ok(())
    }

    async fn request(
        &mut self,
        command: &str,
        arguments: &Value,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Value, QmpError> {
        if self.torn {
            return Err(QmpError::Closed);
        }
        self.last_id += 1;
        let id = self.last_id;
        let mut request = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let line = format!("{request}\n");
        let exchange = async {
            self.torn = true;
            send::send(self.writer.as_ref(), line.as_bytes(), fd).await?;
            self.torn = false;
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
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(QmpError::Timeout { what: command.to_owned(), limit }))
    }

    /// Says whether the virtual processors are to stand still. Said before QEMU is told, so that its own word for it is
    /// understood.
    pub(crate) fn hold(&self, held: bool) {
        self.observe.send_modify(|observed| observed.held = held);
    }

    /// To be called before a transfer of device state begins: what is known of an earlier one is forgotten.
    pub(crate) fn expect_transfer(&self) {
        self.observe.send_modify(|observed| observed.transfer = None);
    }

    /// Returns when the transfer has ended.
    ///
    /// # Errors
    /// When the connection ends first.
    pub(crate) async fn transfer_ended(&self) -> Result<Transfer, QmpError> {
        let mut observed = self.observe.subscribe();
        let last = observed.wait_for(|observed| observed.transfer.is_some() || observed.closed).await;
        last.ok().and_then(|observed| observed.transfer).ok_or(QmpError::Closed)
    }
}

/// A connection on which QEMU has not said hello yet.
#[derive(Debug)]
pub(crate) struct Opening {
    greeting: oneshot::Receiver<Value>,
    failure: Arc<Mutex<Option<QmpError>>>,
    qmp: Qmp,
}

impl Opening {
    /// Waits for QEMU's greeting, which is returned too, and makes it ready for commands.
    ///
    /// # Errors
    /// When it does not greet in time, or not as it should.
    pub(crate) async fn ready(self) -> Result<(Qmp, Value), QmpError> {
        let Self { greeting, failure, mut qmp } = self;
        let why =
            || failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or(QmpError::Closed);
        let greeting = match timeout(GREETING, greeting).await {
            Ok(Ok(greeting)) => greeting,
            Ok(Err(_)) => return Err(why()),
            Err(_) => return Err(QmpError::Timeout { what: "with its greeting".into(), limit: GREETING }),
        };
        qmp.execute("qmp_capabilities", &Value::Null).await?;
        Ok((qmp, greeting))
    }
}

fn dispatch(
    message: Message,
    greeted: &mut Option<oneshot::Sender<Value>>,
    answers: &mpsc::Sender<Answer>,
    observe: &watch::Sender<Observed>,
) {
    if let Some(greeting) = message.greeting {
        if let Some(greeted) = greeted.take() {
            let _ = greeted.send(greeting);
        }
    } else if let Some(event) = message.event {
        observed::note(&event, &message.data.unwrap_or(Value::Null), observe);
    } else if let Some(id) = message.id {
        let result = message.error.map_or_else(|| Ok(message.value.unwrap_or(Value::Null)), Err);
        // Full only if QEMU answers what nobody asked.
        let _ = answers.try_send(Answer { id, result });
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

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
        Qmp::open(ours, false)
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
        let (mut qmp, _) = opening.ready().await.unwrap();
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
        let expected =
            Observed { shutdown: Some("guest-reset".into()), stopped: true, closed: true, ..end.clone() };
        assert_eq!(end, expected);
        assert_eq!((end.held, end.transfer), (false, None));
    }

    #[tokio::test]
    async fn a_stop_that_was_asked_for_is_not_a_crash() {
        let (opening, observed) = play(HELLO, |request| {
            let event = match request["execute"].as_str().unwrap() {
                "stop" => json!({ "event": "STOP" }),
                "cont" => json!({ "event": "RESUME" }),
                _ => json!({ "event": "OTHER" }),
            };
            format!("{event}\n{}", ok(&request))
        })
        .await;
        let (mut qmp, greeting) = opening.ready().await.unwrap();
        assert_eq!(greeting["capabilities"][0], "oob");
        qmp.hold(true);
        qmp.execute("stop", &Value::Null).await.unwrap();
        assert!(!observed.borrow().stopped);
        qmp.hold(false);
        qmp.execute("cont", &Value::Null).await.unwrap();
        assert!(!observed.borrow().stopped);
        qmp.execute("stop", &Value::Null).await.unwrap();
        assert!(observed.borrow().stopped, "this one was not asked for");
    }

    #[tokio::test]
    async fn the_end_of_a_transfer_is_observed_and_that_of_an_earlier_one_forgotten() {
        let event = |status| json!({ "event": "MIGRATION", "data": { "status": status } });
        let (opening, observed) = play(HELLO, move |request| match request["execute"].as_str().unwrap() {
            "migrate" => format!("{}{}\n{}\n", ok(&request), event("active"), event("completed")),
            "migrate_cancel" => format!("{}\n{}", event("cancelled"), ok(&request)),
            "quit" => "close".into(),
            _ => ok(&request),
        })
        .await;
        let (mut qmp, _) = opening.ready().await.unwrap();
        qmp.expect_transfer();
        qmp.execute("migrate", &Value::Null).await.unwrap();
        assert_eq!(qmp.transfer_ended().await.unwrap(), Transfer::Completed);
        qmp.execute("migrate_cancel", &Value::Null).await.unwrap();
        assert_eq!(qmp.transfer_ended().await.unwrap(), Transfer::Cancelled);
        qmp.expect_transfer();
        assert_eq!(observed.borrow().transfer, None);
        assert!(matches!(qmp.execute("quit", &Value::Null).await, Err(QmpError::Closed)));
        assert!(matches!(qmp.transfer_ended().await, Err(QmpError::Closed)));
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
        let (mut qmp, _) = opening.ready().await.unwrap();
        // Some of the noise may have taken the place of an answer; what must not happen is to take noise for one.
        if let Ok(value) =
            tokio::time::timeout(Duration::from_secs(1), qmp.execute("stop", &Value::Null)).await
        {
            assert_eq!(value.unwrap(), json!({}));
        }
        assert!(qmp.answers.len() <= MAX_WAITING);
    }
}
