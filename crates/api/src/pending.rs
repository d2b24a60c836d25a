//! Creates that are under way, so that a team cannot start more sandboxes at once than it may have.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::Team;
use http::StatusCode;
use model::{CreateSandbox, Fleet, SandboxRecord, Secret, TeamId};

use crate::error::ApiError;

#[derive(Default)]
pub(crate) struct PendingCreates {
    by_team: Mutex<ByTeam>,
}

type ByTeam = HashMap<TeamId, HashMap<u64, Pending>>;

/// Enough of a create to recognise its sandbox should the fleet list it before the create returns.
struct Pending {
    token: Option<Secret>,
    idempotency_key: Option<String>,
}

impl Pending {
    fn made(&self, record: &SandboxRecord) -> bool {
        self.token.is_some() && self.token == record.spec.envd_token
    }
}

/// A create's place in its team's limit; dropped when the create is over.
pub(crate) struct Place {
    creates: Arc<PendingCreates>,
    team: TeamId,
    ticket: u64,
}

impl PendingCreates {
    /// Takes a place for a create, or says that the team's limit is reached. A repeated create takes none: its sandbox
    /// is there or coming.
    pub(crate) fn enter(
        self: &Arc<Self>,
        team: &Team,
        wanted: &CreateSandbox,
        fleet: &dyn Fleet,
    ) -> Result<Option<Place>, ApiError> {
        let mut by_team = self.lock();
        let running = fleet.list(&team.id);
        let none = HashMap::new();
        let pending = by_team.get(&team.id).unwrap_or(&none);
        if let Some(key) = &wanted.idempotency_key {
            let same = |other: &Option<String>| other.as_ref() == Some(key);
            if running.iter().any(|record| same(&record.spec.idempotency_key))
                || pending.values().any(|other| same(&other.idempotency_key))
            {
                return Ok(None);
            }
        }
        let settled =
            running.iter().filter(|record| !pending.values().any(|other| other.made(record))).count();
        let limit = team.limits.max_sandboxes;
        if settled + pending.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            let message = format!(
                "the team has reached its limit of {limit} sandboxes at once: kill one, or ask the operator for more"
            );
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
        }
        let ticket = (0..).find(|ticket| !pending.contains_key(ticket)).unwrap_or(u64::MAX);
        let entry =
            Pending { token: wanted.envd_token.clone(), idempotency_key: wanted.idempotency_key.clone() };
        by_team.entry(team.id.clone()).or_default().insert(ticket, entry);
        Ok(Some(Place { creates: self.clone(), team: team.id.clone(), ticket }))
    }

    /// The map is whole even if a holder of the lock panicked.
    fn lock(&self) -> MutexGuard<'_, ByTeam> {
        self.by_team.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_team = self.creates.lock();
        if let Some(pending) = by_team.get_mut(&self.team) {
            pending.remove(&self.ticket);
            if pending.is_empty() {
                by_team.remove(&self.team);
            }
        }
    }
}
