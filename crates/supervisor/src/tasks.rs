//! What a sandbox's lifecycle has done for it, once there is a machine.

use std::cell::OnceCell;
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use control::{Checkpoint, Keep, Launch, Status};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::bring_up::RunningMachine;
use crate::guest::Guest;
use crate::lifecycle::rules::{PauseOutcome, Refusal};
use crate::lifecycle::{Answer, Command, Work};
use crate::millis;
use crate::pause::{Pause, Pauses};

/// What the lifecycle has done for it.
pub(crate) struct Tasks {
    pub(crate) launch: Rc<Launch>,
    pub(crate) dir: PathBuf,
    pub(crate) guest: Guest,
    pub(crate) lifecycle_id: String,
    pub(crate) machine: Rc<OnceCell<Rc<RunningMachine>>>,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) status: watch::Receiver<Status>,
    pub(crate) pauses: Rc<Pauses>,
    /// Cancelled when the sandbox has to end.
    pub(crate) over: CancellationToken,
}

impl Tasks {
    /// What a pause or a snapshot takes; `None` when there is no machine.
    fn to_pause(&self) -> Option<Pause> {
        self.machine.get().map(|machine| Pause {
            launch: Rc::clone(&self.launch),
            dir: self.dir.clone(),
            guest: self.guest.clone(),
            lifecycle_id: self.lifecycle_id.clone(),
            vm: Rc::clone(&machine.vm),
            parts: Arc::clone(&machine.parts),
            status: self.status.clone(),
        })
    }
}

// A lifecycle that is over does not need the answers.
impl Work for Tasks {
    fn initialise(&mut self) -> impl Future<Output = ()> + 'static {
        let (guest, launch, id) = (self.guest.clone(), Rc::clone(&self.launch), self.lifecycle_id.clone());
        let commands = self.commands.clone();
        async move {
            let begun = Instant::now();
            let outcome = guest.init(&launch.spec, &id).await;
            let first = begun.elapsed();
            let taken = outcome.is_ok();
            let _ = commands.send(Command::Initialised(outcome)).await;
            if !taken {
                return;
            }
            // The way of the first one, through a machine with cold memory, took a while that its clock lacks.
            let begun = Instant::now();
            match guest.init(&launch.spec, &id).await {
                Ok(()) => tracing::info!(
                    "guest initialised: first={:.1} again={:.1}",
                    millis(first),
                    millis(begun.elapsed())
                ),
                Err(error) => tracing::warn!(error, "setting the guest's clock once more"),
            }
        }
    }

    fn pause(&mut self, keep: Option<Keep>, cancel: CancellationToken) -> impl Future<Output = ()> + 'static {
        let at_end = if self.launch.spec.auto_pause_memory { Keep::Everything } else { Keep::Disk };
        let keep = keep.unwrap_or(at_end);
        let (commands, pauses) = (self.commands.clone(), Rc::clone(&self.pauses));
        let pause = self.to_pause();
        async move {
            let outcome = match pause {
                Some(pause) => pauses.run(pause, keep, cancel).await,
                None => PauseOutcome::Failed("there is no machine".into()),
            };
            let _ = commands.send(Command::PauseOver(outcome)).await;
        }
    }

    fn snapshot(&mut self, wanted: Checkpoint, answer: Answer) -> impl Future<Output = ()> + 'static {
        let (pauses, pause, over) = (Rc::clone(&self.pauses), self.to_pause(), self.over.clone());
        async move {
            let made = match pause {
                Some(pause) => pauses.checkpoint(pause, wanted, over).await,
                None => Err(Refusal::State("there is no machine")),
            };
            if let Err(Refusal::Failed(error)) = &made {
                tracing::error!(error, "a snapshot failed");
            }
            // Whoever is gone does not need it.
            let _ = answer.send(made);
        }
    }
}
