//! `POST /fsfreeze`, `POST /fsthaw`: the root file system stands still while the host takes it. For the host only.
//!
//! | request | answer |
//! |---|---|
//! | freeze, from the host | 204: what was written before is on the disk, and whoever writes more waits for the thaw |
//! | thaw, from the host | 204 |
//! | either, and it is so already | 204 |
//! | the kernel refuses | 500 |
//! | this machine is not a sandbox of its own | 503: its root is somebody else's |
//! | not from the host | 403 |
//!
//! One thread does both. It is there before anything is frozen, so that the thaw needs nothing that a frozen file system
//! could keep from it: neither a thread of a pool, which may all be writing, nor a file. A host that never thaws is not
//! waited for without end. Both are done to their end whatever becomes of the request.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, State};
use axum::routing::post;
use http::StatusCode;
use model::LogLevel;
use tokio::sync::{Mutex, oneshot};

use crate::error::HttpError;
use crate::server::Peer;
use crate::state::Envd;

/// The host freezes, stops the machine, in which time stands still then, and never needs this long: it is gone.
const LONGEST: Duration = Duration::from_secs(180);
/// The thread calls the kernel and nothing else.
const STACK_BYTES: usize = 64 << 10;

/// The routes.
pub(crate) fn router(state: Arc<Envd>) -> Router {
    Router::new().route("/fsfreeze", post(freeze)).route("/fsthaw", post(thaw)).with_state(state)
}

async fn freeze(
    State(envd): State<Arc<Envd>>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<StatusCode, HttpError> {
    check(&envd, peer)?;
    let task = tokio::spawn(async move {
        let log = Arc::downgrade(&envd);
        envd.freezer().freeze(move || say_that_nobody_thawed(&log)).await
    });
    done("freezing", task.await)
}

async fn thaw(
    State(envd): State<Arc<Envd>>,
    Extension(Peer(peer)): Extension<Peer>,
) -> Result<StatusCode, HttpError> {
    check(&envd, peer)?;
    let task = tokio::spawn(async move { envd.freezer().thaw().await });
    done("thawing", task.await)
}

fn check(envd: &Envd, peer: std::net::IpAddr) -> Result<(), HttpError> {
    let options = envd.options();
    if !options.guest {
        let text = "the root file system is not a sandbox's own";
        return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text));
    }
    if !options.is_host(peer) {
        return Err(HttpError::new(StatusCode::FORBIDDEN, "only the host may ask for this"));
    }
    Ok(())
}

fn done(
    what: &str,
    outcome: Result<io::Result<()>, tokio::task::JoinError>,
) -> Result<StatusCode, HttpError> {
    let outcome = outcome.unwrap_or_else(|error| Err(io::Error::other(error)));
    outcome.map(|()| StatusCode::NO_CONTENT).map_err(|error| {
        let text = format!("{what} the root file system: {error}");
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

fn say_that_nobody_thawed(envd: &Weak<Envd>) {
    if let Some(envd) = envd.upgrade() {
        let text = format!("the root file system was frozen for {LONGEST:?} and is thawed: the host did not");
        envd.log().say(LogLevel::Warn, text);
    }
}

/// What is frozen and thawed.
trait FileSystem: Send + 'static {
    fn freeze(&self) -> io::Result<()>;
    fn thaw(&self) -> io::Result<()>;
}

/// The file system of `/`.
struct Root(File);

impl FileSystem for Root {
    fn freeze(&self) -> io::Result<()> {
        // Most of what is to be written is written while everybody else still can.
        rustix::fs::sync();
        sys::freeze::freeze(&self.0)
    }

    fn thaw(&self) -> io::Result<()> {
        sys::freeze::thaw(&self.0)
    }
}

/// Who waits for an outcome.
type Reply = oneshot::Sender<io::Result<()>>;

/// Freezes and thaws the root file system, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Freezer {
    /// The thread that holds it frozen, or did.
    holder: Mutex<Option<Sender<Reply>>>,
}

impl Freezer {
    async fn freeze(&self, forgotten: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.hold(Root(File::open("/")?), LONGEST, forgotten).await
    }

    /// Returns when it is not frozen, whoever froze it: a daemon before this one may have.
    async fn thaw(&self) -> io::Result<()> {
        self.release(Root(File::open("/")?)).await
    }

    /// Returns when it is frozen. `forgotten` is called when it had to be thawed after `longest`.
    async fn hold(
        &self,
        root: impl FileSystem,
        longest: Duration,
        forgotten: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        // Whoever thaws meanwhile waits for what comes of this.
        let mut holder = self.holder.lock().await;
        if let Some(before) = holder.take() {
            // What was written since is to be on the disk, too: it begins anew.
            thawed_by(&before).await?;
        }
        let (thaws, asked) = mpsc::channel();
        let frozen = on_a_thread(move |reply: Reply| {
            let outcome = root.freeze();
            let frozen = outcome.is_ok();
            if reply.send(outcome).is_err() {
                let _ = root.thaw();
            } else if frozen && !keep(&root, &asked, longest) {
                forgotten();
            }
        })?;
        answer(frozen).await?;
        *holder = Some(thaws);
        Ok(())
    }

    async fn release(&self, root: impl FileSystem) -> io::Result<()> {
        let mut holder = self.holder.lock().await;
        if let Some(thread) = holder.as_ref() {
            thawed_by(thread).await?;
            *holder = None;
        }
        answer(on_a_thread(move |reply: Reply| drop(reply.send(root.thaw())))?).await
    }
}

/// Has the thread that holds it thaw it.
async fn thawed_by(holder: &Sender<Reply>) -> io::Result<()> {
    let (reply, thawed) = oneshot::channel();
    // When there is no answer, it has lost patience, perhaps in this moment: it has thawed it and is gone.
    if holder.send(reply).is_err() { Ok(()) } else { thawed.await.unwrap_or(Ok(())) }
}

fn on_a_thread(work: impl FnOnce(Reply) + Send + 'static) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let (reply, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("freezer".into()).stack_size(STACK_BYTES);
    thread.spawn(move || work(reply))?;
    Ok(outcome)
}

async fn answer(outcome: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    outcome.await.unwrap_or_else(|_| Err(io::Error::other("its thread ended without a word")))
}

/// Holds it until somebody asks for the thaw, and for `longest` at most; whether somebody asked.
fn keep(root: &impl FileSystem, thaws: &Receiver<Reply>, longest: Duration) -> bool {
    loop {
        match thaws.recv_timeout(longest) {
            Ok(reply) => {
                let outcome = root.thaw();
                let done = outcome.is_ok();
                // Whoever asked may be gone.
                let _ = reply.send(outcome);
                if done {
                    return true;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let _ = root.thaw();
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;

    #[derive(Clone, Default)]
    struct Fake(Arc<State>);

    #[derive(Default)]
    struct State {
        frozen: AtomicBool,
        freezes: AtomicUsize,
        refuses: AtomicBool,
    }

    impl Fake {
        fn is_frozen(&self) -> bool {
            self.0.frozen.load(Ordering::SeqCst)
        }
    }

    impl FileSystem for Fake {
        fn freeze(&self) -> io::Result<()> {
            if self.0.refuses.load(Ordering::SeqCst) {
                return Err(io::Error::from(io::ErrorKind::PermissionDenied));
            }
            self.0.freezes.fetch_add(1, Ordering::SeqCst);
            self.0.frozen.store(true, Ordering::SeqCst);
            Ok(())
        }

        fn thaw(&self) -> io::Result<()> {
            self.0.frozen.store(false, Ordering::SeqCst);
            Ok(())
        }
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn it_is_frozen_until_it_is_thawed_however_often_either_is_asked() {
        let (freezer, root) = (Freezer::default(), Fake::default());
        freezer.release(root.clone()).await.unwrap();
        for times in 1..=3 {
            freezer.hold(root.clone(), HOUR, || panic!("nobody forgot")).await.unwrap();
            assert!(root.is_frozen());
            assert_eq!(root.0.freezes.load(Ordering::SeqCst), times, "what was written since is on the disk");
        }
        for _ in 0..2 {
            freezer.release(root.clone()).await.unwrap();
            assert!(!root.is_frozen());
        }
    }

    #[tokio::test]
    async fn a_host_that_is_gone_leaves_nothing_frozen() {
        let (freezer, root) = (Freezer::default(), Fake::default());
        let (said, forgotten) = oneshot::channel();
        let forgot = || said.send(()).unwrap();
        freezer.hold(root.clone(), Duration::from_secs(1), forgot).await.unwrap();
        forgotten.await.unwrap();
        assert!(!root.is_frozen());
        freezer.release(root.clone()).await.unwrap();
        freezer.hold(root.clone(), HOUR, || {}).await.unwrap();
        assert!(root.is_frozen());
        // As when the daemon ends.
        drop(freezer);
        while root.is_frozen() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_leaves_nothing_frozen() {
        let (freezer, root) = (Freezer::default(), Fake::default());
        root.0.refuses.store(true, Ordering::SeqCst);
        let refused = freezer.hold(root.clone(), HOUR, || {}).await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        freezer.release(root.clone()).await.unwrap();
        root.0.refuses.store(false, Ordering::SeqCst);
        freezer.hold(root.clone(), HOUR, || {}).await.unwrap();
        assert!(root.is_frozen());
    }
}
