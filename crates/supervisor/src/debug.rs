//! An operator's debugger in the machine.
//!
//! It is let in for as long as whoever asked for it stays connected: when that connection ends, however it does, the
//! debugger is cut off and the machine runs on. So nothing that crashes leaves a machine that stands still.
//!
//! A machine whose goal it is to be debugged is held for its first debugger as it was in its build: nobody else sets it
//! going. Its guest daemon is given its identity as ever, however long it takes: so what it does then can be looked into.
//!
//! Meanwhile nothing is written of the machine. A pause or a snapshot would stop and resume it behind the debugger's back,
//! and hold what the debugger is in the middle of changing. A pause that is refused for that is a failed one: the answer that the
//! state does not allow it is what clients take for a sandbox that is paused already.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use control::{DEBUGGER_FILE, Goal, Phase, Status};
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio_util::sync::{CancellationToken, DropGuard};
use vmm::Vm;

use crate::control_server::Control;
use crate::lifecycle::rules::Refusal;
use crate::pause::Pauses;

/// Why a machine is not paused now.
pub(crate) const IN_THE_WAY: &str = "a debugger is in the machine; try again when it has left";

/// Lets debuggers into a machine that runs, or that is held for one, until what is returned is dropped.
pub(crate) async fn begin(control: &Control) -> Result<DropGuard, Refusal> {
    let held = control.launch.goal == Goal::Debug;
    let mut status = control.status.clone();
    // One that is held will be there in a moment.
    let seen =
        status.wait_for(|status| !(held && status.phase == Phase::Starting) || is_loaded(status)).await;
    if !seen.is_ok_and(|status| status.phase == Phase::Running || held && is_loaded(&status)) {
        return Err(Refusal::State("the sandbox does not run"));
    }
    let machine = control.machine.get().ok_or(Refusal::State("there is no machine"))?;
    if !control.pauses.keep_out() {
        return Err(Refusal::State("a pause, a snapshot or another debugger is under way"));
    }
    let left = CancellationToken::new();
    let session = Session {
        vm: Rc::clone(&machine.vm),
        pauses: Rc::clone(&control.pauses),
        socket: control.dir.join(DEBUGGER_FILE),
        left: left.clone(),
    };
    let guard = left.drop_guard();
    let (reply, begun) = oneshot::channel();
    // On a task of its own: it must come to its end also when whoever asked is gone half way.
    spawn_local(session.run(reply));
    begun.await.map_err(|_| Refusal::State("the sandbox is ending"))?.map_err(Refusal::Failed)?;
    Ok(guard)
}

/// Whether a machine that goes on from a build is what it was then, and has not begun to change.
fn is_loaded(status: &Status) -> bool {
    status.phase == Phase::Starting && !status.envd_version.is_empty()
}

struct Session {
    vm: Rc<dyn Vm>,
    pauses: Rc<Pauses>,
    socket: PathBuf,
    /// Cancelled when nobody wants it any more.
    left: CancellationToken,
}

impl Session {
    async fn run(self, reply: oneshot::Sender<Result<(), String>>) {
        let begun = self.open().await;
        let is_open = begun.is_ok();
        if reply.send(begun).is_ok() && is_open {
            tracing::warn!("debuggers are let in");
            self.left.cancelled().await;
        }
        let _ = std::fs::remove_file(&self.socket);
        if is_open {
            // A machine that is gone is how some sessions end.
            if let Err(error) = self.vm.keep_debuggers_out().await {
                tracing::warn!(%error, "keeping debuggers out");
            }
            if let Err(error) = self.vm.resume().await {
                tracing::warn!(%error, "setting the machine going again after a debugger");
            }
            tracing::warn!("debuggers are kept out again");
        }
        self.pauses.let_in();
    }

    async fn open(&self) -> Result<(), String> {
        let listener = listen(&self.socket).map_err(|error| format!("{}: {error}", self.socket.display()))?;
        self.vm.let_debuggers_in(listener.into()).await.map_err(|error| error.to_string())
    }
}

/// The directory is private, and so is the socket.
fn listen(path: &Path) -> std::io::Result<UnixListener> {
    // Of a session whose supervisor did not come to remove it.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}
