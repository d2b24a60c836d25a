//! A QEMU process, and what may be asked of it when.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{END_OF_FAILURE, debug, transfer};
use crate::driver::{Vm, VmmError};
use crate::exit::Exit;
use crate::identity::Identity;
use crate::process::Process;
use crate::qmp::{Qmp, QmpError};
use crate::step::{Step, StepError};

/// How long pausing may take. Normally 1 ms; but the guest's disk is flushed, which takes what the host's disk takes.
const PAUSE: Duration = Duration::from_secs(30);

/// A QEMU process.
#[derive(Debug)]
pub(crate) struct QemuVm {
    shared: Arc<Shared>,
    identity: Identity,
}

/// What a step that its caller no longer waits for still needs.
#[derive(Debug)]
struct Shared {
    process: Process,
    control: Mutex<Control>,
}

#[derive(Debug)]
struct Control {
    qmp: Qmp,
    condition: Condition,
    /// The state of the machine, if it was saved since it last ran. QEMU gives it away once between two runs.
    saved: Option<Vec<u8>>,
    /// Whether debuggers are let in.
    debugged: bool,
}

/// What is known of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// It has no state to run with yet.
    Waiting,
    Running,
    Paused,
    /// A step failed, or a debugger may have done something. It runs or stands still; QEMU takes either command.
    Unsure,
    /// A state came in only in part, or wrong. It must never run.
    Broken,
}

impl QemuVm {
    /// A QEMU that obeys; `waiting` if it was started without anything to run.
    pub(super) fn new(process: Process, qmp: Qmp, waiting: bool, identity: Identity) -> Self {
        let condition = if waiting { Condition::Waiting } else { Condition::Running };
        let control = Mutex::new(Control { qmp, condition, saved: None, debugged: false });
        Self { shared: Arc::new(Shared { process, control }), identity }
    }

    /// Does `work` in a task of its own, so that it is not left half way when the caller goes away.
    async fn perform<T, F>(&self, step: Step, work: impl FnOnce(Arc<Shared>) -> F) -> Result<T, VmmError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StepError>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let work = work(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            match work.await {
                Err(error) => Err(shared.explain(error).await),
                done => done,
            }
        });
        // It is neither aborted nor panics: the runtime is shutting down.
        let result = task.await.unwrap_or(Err(StepError::Control(QmpError::Closed)));
        result.map_err(|source| VmmError::Step { step, source })
    }
}

impl Drop for QemuVm {
    fn drop(&mut self) {
        // A step that is still going on would keep it alive.
        self.shared.process.kill();
    }
}

impl Shared {
    /// A QEMU that ended says why on its standard error, which beats "connection closed".
    async fn explain(&self, error: StepError) -> StepError {
        match error {
            StepError::Control(QmpError::Closed | QmpError::Io(_)) | StepError::Stream(_) => {
                let gone = timeout(END_OF_FAILURE, self.process.wait()).await;
                gone.map_or(error, StepError::Exited)
            }
            error => error,
        }
    }

    /// Makes sure that a machine which must never run is gone. Its own last words are better than `error`.
    async fn bury(&self, error: StepError) -> StepError {
        if let Ok(exit) = timeout(END_OF_FAILURE, self.process.wait()).await {
            return StepError::Exited(exit);
        }
        self.process.kill();
        self.process.wait().await;
        error
    }
}

impl Control {
    async fn pause(&mut self) -> Result<(), StepError> {
        self.must_have_a_state()?;
        if self.condition == Condition::Paused {
            return Ok(());
        }
        self.condition = Condition::Unsure;
        self.qmp.hold(true);
        self.qmp.execute_within("stop", &Value::Null, PAUSE).await?;
        self.settle(Condition::Paused);
        Ok(())
    }

    async fn save(&mut self) -> Result<Vec<u8>, StepError> {
        self.must_have_a_state()?;
        if self.condition != Condition::Paused {
            return Err(StepError::Condition("it is not paused"));
        }
        if let Some(state) = &self.saved {
            return Ok(state.clone());
        }
        let saved = transfer::save(&mut self.qmp).await;
        match &saved {
            Ok(state) => self.saved = Some(state.clone()),
            Err(_) => self.condition = Condition::Unsure,
        }
        saved
    }

    async fn load(&mut self, state: &[u8]) -> Result<(), StepError> {
        if self.condition != Condition::Waiting {
            return Err(StepError::Condition("it is not waiting for a state"));
        }
        self.condition = Condition::Broken;
        transfer::load(&mut self.qmp, state).await?;
        self.condition = Condition::Paused;
        Ok(())
    }

    async fn resume(&mut self) -> Result<(), StepError> {
        self.must_have_a_state()?;
        if self.condition == Condition::Running {
            return Ok(());
        }
        self.condition = Condition::Unsure;
        self.saved = None;
        self.qmp.hold(false);
        let resumed = self.qmp.execute("cont", &Value::Null).await;
        if resumed.is_err() {
            self.qmp.hold(true);
        }
        resumed?;
        self.settle(Condition::Running);
        Ok(())
    }

    async fn let_debuggers_in(&mut self, listener: OwnedFd) -> Result<(), StepError> {
        self.must_have_a_state()?;
        if self.debugged {
            return Err(StepError::Condition("debuggers are let in already"));
        }
        debug::start(&mut self.qmp, listener).await?;
        self.debugged = true;
        // What it is from now on, a debugger decides; and what it saved is old as soon as one changes something.
        self.condition = Condition::Unsure;
        self.saved = None;
        Ok(())
    }

    async fn keep_debuggers_out(&mut self) -> Result<(), StepError> {
        if self.debugged {
            debug::stop(&mut self.qmp).await?;
            self.debugged = false;
        }
        Ok(())
    }

    /// It is in this condition, as long as nobody else changes that.
    fn settle(&mut self, condition: Condition) {
        self.condition = if self.debugged { Condition::Unsure } else { condition };
    }

    /// QEMU would take `cont` for a wish to run as soon as there is a state.
    fn must_have_a_state(&self) -> Result<(), StepError> {
        match self.condition {
            Condition::Waiting => Err(StepError::Condition("it has no state yet")),
            Condition::Broken => Err(StepError::Condition("it failed to load its state")),
            Condition::Running | Condition::Paused | Condition::Unsure => Ok(()),
        }
    }
}

#[async_trait]
impl Vm for QemuVm {
    fn pid(&self) -> i32 {
        self.shared.process.pid()
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn pause(&self) -> Result<(), VmmError> {
        self.perform(Step::Pause, |shared| async move { shared.control.lock().await.pause().await }).await
    }

    async fn save_state(&self) -> Result<Vec<u8>, VmmError> {
        self.perform(Step::SaveState, |shared| async move { shared.control.lock().await.save().await }).await
    }

    async fn load_state(&self, state: &[u8]) -> Result<(), VmmError> {
        let state = state.to_vec();
        self.perform(Step::LoadState, |shared| async move {
            let mut control = shared.control.lock().await;
            let loaded = control.load(&state).await;
            match loaded {
                Err(error) if control.condition == Condition::Broken => Err(shared.bury(error).await),
                other => other,
            }
        })
        .await
    }

    async fn resume(&self) -> Result<(), VmmError> {
        self.perform(Step::Resume, |shared| async move { shared.control.lock().await.resume().await }).await
    }

    async fn let_debuggers_in(&self, listener: OwnedFd) -> Result<(), VmmError> {
        self.perform(Step::LetDebuggersIn, |shared| async move {
            shared.control.lock().await.let_debuggers_in(listener).await
        })
        .await
    }

    async fn keep_debuggers_out(&self) -> Result<(), VmmError> {
        self.perform(Step::KeepDebuggersOut, |shared| async move {
            shared.control.lock().await.keep_debuggers_out().await
        })
        .await
    }

    fn kill(&self) {
        self.shared.process.kill();
    }

    async fn wait(&self) -> Exit {
        self.shared.process.wait().await
    }
}
