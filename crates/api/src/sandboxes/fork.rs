//! `POST /sandboxes/{id}/fork`: sandboxes that go on from what a running one is now.
//!
//! They take their places in the team's limit first; for those that find none nothing is done, and no snapshot is made when
//! none finds one. Then the running sandbox is snapshotted once, and each of the others is created from that by the path
//! that every create takes. Whatever becomes of them, nobody makes sandboxes from the snapshot afterwards.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use catalog::Team;
use futures_util::{StreamExt, stream};
use http::StatusCode;
use model::{CreateSandbox, FleetError, SandboxRecord, SandboxState, Snapshotted};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::request::life;
use super::start::{end_unclaimed, new_token, start_in, start_permit};
use crate::ApiState;
use crate::auth::Caller;
use crate::body::SmallJson;
use crate::error::ApiError;
use crate::path::SandboxPath;
use crate::pending::Place;
use crate::wire::{Forked, Sandbox};

/// Sandboxes that one request may ask for, by E2B's API.
const MAX_COUNT: usize = 100;
/// How many of them start at once. More would only make each of them wait for processors.
const STARTS: usize = 8;

#[derive(Deserialize)]
pub(crate) struct Fork {
    timeout: Option<i64>,
    count: Option<i64>,
}

/// What became of each sandbox that was asked for.
type Outcomes = Vec<Result<SandboxRecord, ApiError>>;

/// The sandbox runs on; each of the new ones has an entry in the answer, itself or why it is not there.
pub(crate) async fn fork(
    Caller(team): Caller,
    State(state): State<ApiState>,
    SandboxPath(id): SandboxPath,
    SmallJson(body): SmallJson<Fork>,
) -> Result<Response, ApiError> {
    let life = life(body.timeout, state.config().default_timeout_v2, state.max_life(&team))?;
    let count = read_count(body.count)?;
    let source = state.fleet().get(&team.id, &id)?;
    if source.state == SandboxState::Paused {
        let message = format!("Sandbox \"{id}\" is paused and cannot be forked: connect to it first");
        return Err(FleetError::Conflict(message).into());
    }
    let permit = start_permit(&state)?;
    let domain = state.config().domain.clone();
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(work(state, team, source, life, count, permit, sender));
    let outcomes = receiver.await.map_err(|_| ApiError::internal(&"the task of a fork died"))??;
    let entries: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(record) => Forked::Sandbox(Sandbox::new(record, domain.as_deref())),
            Err(error) => Forked::Error(error.body()),
        })
        .collect();
    Ok((StatusCode::CREATED, Json(entries)).into_response())
}

fn read_count(given: Option<i64>) -> Result<usize, ApiError> {
    let count = given.unwrap_or(1);
    usize::try_from(count).ok().filter(|count| (1..=MAX_COUNT).contains(count)).ok_or_else(|| {
        ApiError::bad_request(format!("count must be a number from 1 to {MAX_COUNT}, not {count}"))
    })
}

/// The fork, on a task of its own. When its outcome finds nobody to take it, the new sandboxes are ended: nobody will ever
/// learn their ids.
async fn work(
    state: ApiState,
    team: Team,
    source: SandboxRecord,
    life: Duration,
    count: usize,
    permit: OwnedSemaphorePermit,
    sender: oneshot::Sender<Result<Outcomes, ApiError>>,
) {
    let (starts, refusal) = reserve(&state, &team, &source, life, count);
    let missing = count - starts.len();
    let mut outcome = start_all(&state, &source, starts, permit, &sender).await;
    if let (Ok(outcomes), Some(refusal)) = (&mut outcome, refusal) {
        outcomes.extend((0..missing).map(|_| Err(refusal.clone().into())));
    }
    if let Err(Ok(outcomes)) = sender.send(outcome) {
        let (state, team) = (&state, &team.id);
        let end = async |record: SandboxRecord| end_unclaimed(state, team, &record.spec.id).await;
        stream::iter(outcomes.into_iter().flatten()).for_each_concurrent(STARTS, end).await;
    }
}

/// Takes places in the team's limit until there are enough or none is left, which is told then.
fn reserve(
    state: &ApiState,
    team: &Team,
    source: &SandboxRecord,
    life: Duration,
    count: usize,
) -> (Vec<Start>, Option<FleetError>) {
    let mut starts = Vec::with_capacity(count);
    while starts.len() < count {
        let wanted = another(source, life);
        match state.pending().create(team, &wanted, state.fleet().as_ref()) {
            Ok(place) => starts.push(Start { wanted, place }),
            Err(refusal) => return (starts, Some(refusal)),
        }
    }
    (starts, None)
}

/// Like the source in everything that was asked for, with tokens of its own.
fn another(source: &SandboxRecord, life: Duration) -> CreateSandbox {
    let spec = &source.spec;
    CreateSandbox {
        team: spec.team.clone(),
        template: spec.template.clone(),
        alias: spec.alias.clone(),
        build: spec.build.clone(),
        shape: spec.shape,
        metadata: spec.metadata.clone(),
        env: spec.env.clone(),
        network: spec.network.clone(),
        on_timeout: spec.on_timeout,
        auto_pause_memory: spec.auto_pause_memory,
        auto_resume: spec.auto_resume,
        auto_resume_reboots: spec.auto_resume_reboots,
        envd_token: spec.envd_token.as_ref().map(|_| new_token()),
        traffic_token: spec.traffic_token.as_ref().map(|_| new_token()),
        timeout: life,
        idempotency_key: None,
    }
}

/// Makes the snapshot and starts everything from it. What has not begun when the client is gone does not begin.
async fn start_all(
    state: &ApiState,
    source: &SandboxRecord,
    starts: Vec<Start>,
    permit: OwnedSemaphorePermit,
    sender: &oneshot::Sender<Result<Outcomes, ApiError>>,
) -> Result<Outcomes, ApiError> {
    if starts.is_empty() {
        return Ok(Vec::new());
    }
    let snapshot = state.fleet().snapshot(&source.spec.team, &source.spec.id, true).await?;
    // The sandboxes wait for permits of their own, and a fork that waits must not hold one.
    drop(permit);
    let outcomes = stream::iter(starts)
        .map(|start| start.run(state, &snapshot, sender))
        .buffered(STARTS)
        .filter_map(std::future::ready)
        .collect()
        .await;
    state.fleet().forget(&snapshot.build).await;
    Ok(outcomes)
}

/// A sandbox that is to be started, in its place within the team's limit.
struct Start {
    wanted: CreateSandbox,
    place: Option<Place>,
}

impl Start {
    /// `None` when nobody is there any more to take the sandbox.
    async fn run(
        self,
        state: &ApiState,
        snapshot: &Snapshotted,
        sender: &oneshot::Sender<Result<Outcomes, ApiError>>,
    ) -> Option<Result<SandboxRecord, ApiError>> {
        let permit = match state.creates().clone().acquire_owned().await {
            Ok(permit) => permit,
            Err(error) => return Some(Err(ApiError::internal(&error))),
        };
        if sender.is_closed() {
            return None;
        }
        let Self { mut wanted, place } = self;
        (wanted.build, wanted.shape) = (snapshot.build.clone(), snapshot.shape);
        Some(start_in(state, wanted, permit, place).await)
    }
}
