//! Having a sandbox started by the fleet, whatever becomes of the client.

use std::collections::BTreeMap;

use catalog::Team;
use http::StatusCode;
use model::{CreateSandbox, NetworkPolicy, OnTimeout, SandboxId, SandboxRecord, Secret, TeamId, TemplateId};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::ApiState;
use crate::error::ApiError;
use crate::pending::Place;

/// Random bytes of a sandbox's tokens.
const TOKEN_BYTES: usize = 32;

/// A token that no other sandbox has.
pub(super) fn new_token() -> Secret {
    Secret::random("", TOKEN_BYTES)
}

/// A place among the starts under way, or that there is none now.
pub(super) fn start_permit(state: &ApiState) -> Result<OwnedSemaphorePermit, ApiError> {
    state.creates().clone().try_acquire_owned().map_err(|_| {
        ApiError::no_capacity("too many sandboxes are being created at this moment: try again in a second")
    })
}

/// Starts a sandbox within the team's limit.
pub(super) async fn start(
    state: &ApiState,
    team: &Team,
    wanted: CreateSandbox,
    permit: OwnedSemaphorePermit,
) -> Result<SandboxRecord, ApiError> {
    let place = state.pending().create(team, &wanted, state.fleet().as_ref())?;
    start_in(state, wanted, permit, place).await
}

/// Starts a sandbox in its place within the team's limit.
///
/// The work is done by a task of its own. When its outcome finds nobody to take it, because the client went away or
/// its deadline passed, a sandbox without idempotency key is ended: nobody will ever learn its id.
pub(super) async fn start_in(
    state: &ApiState,
    wanted: CreateSandbox,
    permit: OwnedSemaphorePermit,
    place: Option<Place>,
) -> Result<SandboxRecord, ApiError> {
    let repeat = Repeat::of(&wanted);
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(work(state.clone(), wanted, permit, place, sender));
    let record =
        receiver.await.map_err(|_| ApiError::internal(&"the task that creates a sandbox died"))??;
    match repeat {
        Some(repeat) => repeat.check(record),
        None => Ok(record),
    }
}

async fn work(
    state: ApiState,
    wanted: CreateSandbox,
    permit: OwnedSemaphorePermit,
    place: Option<Place>,
    sender: oneshot::Sender<Result<SandboxRecord, model::FleetError>>,
) {
    let (team, template, token) = (wanted.team.clone(), wanted.template.clone(), wanted.envd_token.clone());
    let repeatable = wanted.idempotency_key.is_some();
    let outcome = state.fleet().create(wanted).await;
    let made = outcome.as_ref().is_ok_and(|record| record.spec.envd_token == token);
    drop((permit, place));
    match sender.send(outcome) {
        Ok(()) => {}
        Err(Ok(record)) if repeatable => {
            tracing::info!(sandbox = %record.spec.id, "the client of a create is gone; its key may ask again");
        }
        Err(Ok(record)) => end_unclaimed(&state, &team, &record.spec.id).await,
        Err(Err(error)) => tracing::warn!(%error, "a create failed after its client was gone"),
    }
    if made && let Err(error) = state.catalog().count_spawn(&template).await {
        tracing::warn!(%template, %error, "cannot count a sandbox");
    }
}

/// Ends a new sandbox whose client is gone.
pub(super) async fn end_unclaimed(state: &ApiState, team: &TeamId, id: &SandboxId) {
    tracing::info!(sandbox = %id, "the client of a create is gone; ending the sandbox");
    if let Err(error) = state.fleet().kill(team, id).await {
        tracing::warn!(sandbox = %id, %error, "cannot end a sandbox whose client is gone");
    }
}

/// What a create with an idempotency key asked for, to compare with what an earlier one made.
struct Repeat {
    token: Option<Secret>,
    template: TemplateId,
    network: NetworkPolicy,
    metadata: BTreeMap<String, String>,
    env: BTreeMap<String, String>,
    on_timeout: OnTimeout,
    auto_pause_memory: bool,
    auto_resume: bool,
    auto_resume_reboots: bool,
}

impl Repeat {
    fn of(wanted: &CreateSandbox) -> Option<Self> {
        wanted.idempotency_key.as_ref()?;
        Some(Self {
            token: wanted.envd_token.clone(),
            template: wanted.template.clone(),
            network: wanted.network.clone(),
            metadata: wanted.metadata.clone(),
            env: wanted.env.clone(),
            on_timeout: wanted.on_timeout,
            auto_pause_memory: wanted.auto_pause_memory,
            auto_resume: wanted.auto_resume,
            auto_resume_reboots: wanted.auto_resume_reboots,
        })
    }

    /// A key used again for a different request is a mistake of the client's.
    fn check(&self, record: SandboxRecord) -> Result<SandboxRecord, ApiError> {
        let spec = &record.spec;
        let first = spec.envd_token == self.token;
        let same = spec.template == self.template
            && spec.network == self.network
            && spec.metadata == self.metadata
            && spec.env == self.env
            && spec.on_timeout == self.on_timeout
            && spec.auto_pause_memory == self.auto_pause_memory
            && spec.auto_resume == self.auto_resume
            && spec.auto_resume_reboots == self.auto_resume_reboots;
        if first || same {
            return Ok(record);
        }
        let message =
            "this Idempotency-Key was used before for a different request, whose sandbox is still there";
        Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, message).code("idempotency_request_mismatch"))
    }
}
