//! The node's door: the routes of crate `control`.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use control::{EndTime, Event, Keep, Launch, LogFilter, Status};
use futures_util::{StreamExt as _, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bring_up::RunningMachine;
use crate::debug;
use crate::http1::{Body, json, read_body, serve, text};
use crate::lifecycle::rules::Refusal;
use crate::lifecycle::{Answer, Command};
use crate::log_store::{self, LogStore};
use crate::metrics::Samples;
use crate::pause::Pauses;

/// The node keeps one for events and makes short ones beside it.
const MAX_CONNECTIONS: usize = 128;
const MAX_BODY_BYTES: usize = 64 << 10;
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the routes need.
pub(crate) struct Control {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<Status>,
    /// Set once, when the sandbox has ended.
    pub(crate) ended: watch::Receiver<Option<Event>>,
    /// Cancelled when somebody was told how it ended.
    pub(crate) told: CancellationToken,
    pub(crate) samples: Rc<Samples>,
    pub(crate) logs: Rc<LogStore>,
    pub(crate) machine: Rc<OnceCell<Rc<RunningMachine>>>,
    pub(crate) pauses: Rc<Pauses>,
    pub(crate) dir: PathBuf,
    pub(crate) launch: Rc<Launch>,
}

/// Answers the node for ever.
pub(crate) async fn run(listener: UnixListener, control: Control) {
    let control = Rc::new(control);
    let accept = async || Ok(listener.accept().await?.0);
    serve(MAX_CONNECTIONS, accept, move |request| answer(request, Rc::clone(&control))).await;
}

async fn answer(request: Request<Incoming>, control: Rc<Control>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match read_body(body, MAX_BODY_BYTES, BODY_TIMEOUT).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    match (head.method, head.uri.path()) {
        (Method::GET, "/v1/status") => json(&*control.status.borrow()),
        (Method::GET, "/v1/events") => events(&control),
        (Method::PUT, "/v1/end") => match serde_json::from_slice::<EndTime>(&body) {
            Ok(end) => set_end(&control, end).await,
            Err(error) => text(StatusCode::BAD_REQUEST, format!("reading the end time: {error}")),
        },
        (Method::POST, "/v1/pause") => match serde_json::from_slice::<Option<Keep>>(&body) {
            // Before it is seen to begin: whoever watches would take it for one that is under way.
            Ok(_) if control.pauses.are_kept_out() => refused(Refusal::Failed(debug::IN_THE_WAY.into())),
            Ok(keep) => answered(&control, |answer| Command::Pause(keep.unwrap_or_default(), answer)).await,
            Err(error) => text(StatusCode::BAD_REQUEST, format!("reading what to keep: {error}")),
        },
        (Method::POST, "/v1/snapshot") => match serde_json::from_slice(&body) {
            Ok(wanted) => answered(&control, |answer| Command::Snapshot(wanted, answer)).await,
            Err(error) => text(StatusCode::BAD_REQUEST, format!("reading which build to make: {error}")),
        },
        (Method::GET, "/v1/debugger") => match debug::begin(&control).await {
            Ok(session) => debugger(session, &control),
            Err(refusal) => refused(refusal),
        },
        (Method::POST, "/v1/kill") => {
            // A closed queue means that it is ending already.
            let _ = control.commands.send(Command::Kill).await;
            text(StatusCode::ACCEPTED, "")
        }
        (Method::GET, "/v1/metrics") => json(&control.samples.all()),
        (Method::POST, "/v1/logs") => match serde_json::from_slice::<LogFilter>(&body) {
            Ok(filter) => logs(&control, filter).await,
            Err(error) => text(StatusCode::BAD_REQUEST, format!("reading the log filter: {error}")),
        },
        (_, path) => text(StatusCode::NOT_FOUND, format!("no such route: {path}")),
    }
}

async fn set_end(control: &Control, end: EndTime) -> Response<Body> {
    let (reply, answer) = oneshot::channel();
    let sent = control.commands.send(Command::SetEnd(end, reply)).await;
    match (sent, answer.await) {
        (Ok(()), Ok(status)) => json(&status),
        _ => text(StatusCode::CONFLICT, "the sandbox is ending"),
    }
}

/// Has a pause or a snapshot made and waits for it.
async fn answered(control: &Control, command: impl FnOnce(Answer) -> Command) -> Response<Body> {
    let (reply, answer) = oneshot::channel();
    let sent = control.commands.send(command(reply)).await;
    match (sent, answer.await) {
        (Ok(()), Ok(Ok(()))) => text(StatusCode::NO_CONTENT, ""),
        (Ok(()), Ok(Err(refusal))) => refused(refusal),
        _ => text(StatusCode::CONFLICT, "the sandbox is ending"),
    }
}

fn refused(refusal: Refusal) -> Response<Body> {
    match refusal {
        Refusal::State(why) => text(StatusCode::CONFLICT, why),
        Refusal::Failed(why) => text(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

async fn logs(control: &Control, filter: LogFilter) -> Response<Body> {
    let dir = control.logs.dir().to_owned();
    let found = tokio::task::spawn_blocking(move || log_store::query(&dir, &filter)).await;
    match found {
        Ok(Ok(entries)) => json(&entries),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("reading the log: {error}")),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("reading the log: {error}")),
    }
}

/// How the sandbox ended, once it has. The sender lives as long as the process: `None` is an end without words.
async fn end_of(ended: &mut watch::Receiver<Option<Event>>) -> Option<Event> {
    ended.wait_for(Option::is_some).await.ok()?.clone()
}

/// One line per change, the current status first, [`Event::Ended`] last. Only the newest status is kept for a slow
/// reader.
fn events(control: &Control) -> Response<Body> {
    let mut status = control.status.clone();
    status.mark_changed();
    let ended = control.ended.clone();
    let told = control.told.clone();
    let lines = stream::unfold(Some((status, ended, told)), |state| async {
        let (mut status, mut ended, told) = state?;
        let event = tokio::select! {
            last = end_of(&mut ended) => last?,
            Ok(()) = status.changed() => Event::Status(status.borrow_and_update().clone()),
            // The lifecycle is over; what is left to say is how it ended.
            else => return None,
        };
        let last = matches!(event, Event::Ended { .. });
        if last {
            told.cancel();
        }
        let mut line = serde_json::to_vec(&event).ok()?;
        line.push(b'\n');
        let frame = Ok::<_, Infallible>(Frame::data(Bytes::from(line)));
        Some((frame, (!last).then_some((status, ended, told))))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(lines)))
}

/// A line, and then nothing until the sandbox has ended. The session ends with the answer, which ends with its connection.
fn debugger(session: DropGuard, control: &Control) -> Response<Body> {
    let line = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"ready\n")));
    let mut ended = control.ended.clone();
    let until_the_end = stream::once(async move {
        let _session = session;
        let _ = end_of(&mut ended).await;
        Ok(Frame::data(Bytes::from_static(b"ended\n")))
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(stream::iter([line]).chain(until_the_end))))
}
