//! The rules by themselves: what each state makes of each thing that can happen. No clock, no channel, no task, so that
//! a test can try everything in every order.

use model::{BuildId, EndReason, OnTimeout};

/// Where a life is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// The machine is brought up and its guest daemon answers, or is told who it is.
    Starting {
        /// The guest daemon listens, and was asked to take its identity.
        ready: bool,
    },
    /// Commands can be run.
    Running,
    /// The sandbox is being written to a build.
    Pausing {
        /// Somebody wants to use the sandbox: the pause was asked to give up.
        woken: bool,
        /// The VMM is gone meanwhile, this is how. What was stopped can still be written.
        gone: Option<EndReason>,
    },
    /// It is over.
    Over(EndReason),
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The guest daemon listens.
    Ready,
    /// It took, or refused, its identity.
    Initialised(Result<(), String>),
    /// The machine could not be brought up.
    LaunchFailed(String),
    /// The VMM process is gone, or was not launched since there is no memory to go on with.
    VmmGone(EndReason),
    /// A step of the start took too long.
    Late(String),
    /// The end time has come.
    EndTime,
    /// Somebody wants it paused.
    Pause,
    /// Somebody wants to use it.
    Wake,
    /// Somebody wants it ended.
    Kill,
    /// The pause that was begun is over.
    PauseOver(PauseOutcome),
}

/// How a pause ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PauseOutcome {
    /// Build and record are on stable storage.
    Committed(BuildId),
    /// It gave up as it was asked to, and the machine runs on.
    Cancelled,
    /// It failed, and the machine runs on.
    Failed(String),
    /// It failed, and so did setting the machine going again.
    Lost(String),
}

/// What has to be done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Give the guest daemon its identity; [`Input::Initialised`] follows.
    Initialise,
    /// The lifetime begins now.
    BeginLifetime,
    /// Write the sandbox to a build; [`Input::PauseOver`] follows.
    BeginPause,
    /// Ask the pause to give up. It may be too late for that.
    CancelPause,
    /// Tell everybody who waits for the pause.
    Answer(Result<(), Refusal>),
    /// Tell only who asked just now.
    Refuse(Refusal),
    /// The end time passed without an end: look at it again in a while.
    Postpone,
}

/// Why a pause did not come about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The state does not allow it.
    State(&'static str),
    /// It failed.
    Failed(String),
}

/// What does not change in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What happens at the end time.
    pub on_timeout: OnTimeout,
    /// The machine becomes a template's build as soon as its guest daemon answers, and is used by nobody.
    pub template: bool,
}

impl State {
    /// The state in which every life begins.
    #[must_use]
    pub const fn first() -> Self {
        Self::Starting { ready: false }
    }

    /// What becomes of the state, and what has to be done, in this order.
    #[must_use]
    pub fn on(self, input: Input, terms: Terms) -> (Self, Vec<Effect>) {
        match self {
            Self::Starting { ready } => Self::starting(ready, input, terms),
            Self::Running => Self::running(input, terms),
            Self::Pausing { woken, gone } => Self::pausing(woken, gone, input, terms),
            Self::Over(why) => match input {
                Input::Pause => {
                    (Self::Over(why), vec![Effect::Refuse(Refusal::State("the sandbox is ending"))])
                }
                _ => (Self::Over(why), Vec::new()),
            },
        }
    }

    fn starting(ready: bool, input: Input, terms: Terms) -> (Self, Vec<Effect>) {
        let failed = |why: String| (Self::Over(EndReason::StartFailed(why)), Vec::new());
        match input {
            Input::Ready if ready => (Self::Starting { ready }, Vec::new()),
            Input::Ready if terms.template => (Self::pausing_now(), vec![Effect::BeginPause]),
            Input::Ready => (Self::Starting { ready: true }, vec![Effect::Initialise]),
            Input::Initialised(Ok(())) => (Self::Running, vec![Effect::BeginLifetime]),
            Input::Initialised(Err(why)) | Input::LaunchFailed(why) | Input::Late(why) => failed(why),
            Input::VmmGone(EndReason::VmmDied(how)) => failed(format!("the VMM died: {how}")),
            // Its node knows what to do about that.
            Input::VmmGone(why @ EndReason::MemoryUnusable(_)) => (Self::Over(why), Vec::new()),
            Input::VmmGone(_) => failed("the guest powered off while it started".into()),
            Input::Kill => (Self::Over(EndReason::Killed), Vec::new()),
            Input::Pause => {
                let refusal = Refusal::State("the sandbox is still starting");
                (Self::Starting { ready }, vec![Effect::Refuse(refusal)])
            }
            Input::EndTime | Input::Wake | Input::PauseOver(_) => (Self::Starting { ready }, Vec::new()),
        }
    }

    fn running(input: Input, terms: Terms) -> (Self, Vec<Effect>) {
        match input {
            Input::Pause => (Self::pausing_now(), vec![Effect::BeginPause]),
            Input::EndTime => match terms.on_timeout {
                OnTimeout::Pause => (Self::pausing_now(), vec![Effect::BeginPause]),
                OnTimeout::Kill => (Self::Over(EndReason::TimedOut), Vec::new()),
            },
            Input::VmmGone(why) => (Self::Over(why), Vec::new()),
            Input::Kill => (Self::Over(EndReason::Killed), Vec::new()),
            Input::Ready
            | Input::Initialised(_)
            | Input::LaunchFailed(_)
            | Input::Late(_)
            | Input::Wake
            | Input::PauseOver(_) => (Self::Running, Vec::new()),
        }
    }

    fn pausing(woken: bool, gone: Option<EndReason>, input: Input, terms: Terms) -> (Self, Vec<Effect>) {
        let answer = |refusal| Effect::Answer(Err(refusal));
        match input {
            Input::PauseOver(PauseOutcome::Committed(build)) => {
                (Self::Over(EndReason::Paused(build)), vec![Effect::Answer(Ok(()))])
            }
            Input::PauseOver(outcome) => {
                let refusal = match &outcome {
                    PauseOutcome::Failed(why) | PauseOutcome::Lost(why) => Refusal::Failed(why.clone()),
                    _ => Refusal::State("the sandbox was used while it was being paused, and runs on"),
                };
                let over = match (outcome, gone) {
                    (_, Some(why)) => why,
                    (PauseOutcome::Lost(why), None) => EndReason::VmmDied(why),
                    (PauseOutcome::Failed(why), None) if terms.template => EndReason::StartFailed(why),
                    (_, None) if terms.template => EndReason::StartFailed("it was taken back".into()),
                    (PauseOutcome::Failed(_), None) if terms.on_timeout == OnTimeout::Pause => {
                        return (Self::Running, vec![answer(refusal), Effect::Postpone]);
                    }
                    _ => return (Self::Running, vec![answer(refusal)]),
                };
                (Self::Over(over), vec![answer(refusal)])
            }
            Input::Kill => {
                let refusal = Refusal::State("the sandbox was killed while it was being paused");
                (Self::Over(EndReason::Killed), vec![Effect::CancelPause, answer(refusal)])
            }
            Input::Wake if woken => (Self::Pausing { woken, gone }, Vec::new()),
            Input::Wake => (Self::Pausing { woken: true, gone }, vec![Effect::CancelPause]),
            Input::VmmGone(why) => (Self::Pausing { woken, gone: gone.or(Some(why)) }, Vec::new()),
            Input::Pause => {
                let refusal = Refusal::State("the sandbox is being paused already");
                (Self::Pausing { woken, gone }, vec![Effect::Refuse(refusal)])
            }
            Input::Ready
            | Input::Initialised(_)
            | Input::LaunchFailed(_)
            | Input::Late(_)
            | Input::EndTime => (Self::Pausing { woken, gone }, Vec::new()),
        }
    }

    const fn pausing_now() -> Self {
        Self::Pausing { woken: false, gone: None }
    }
}
