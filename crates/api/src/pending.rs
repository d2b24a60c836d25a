//! Creates and resumes that are under way, so that a team cannot have more sandboxes running at once than it may.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use catalog::Team;
use model::{CreateSandbox, Fleet, FleetError, SandboxId, SandboxRecord, SandboxState, Secret, TeamId};

#[derive(Default)]
pub(crate) struct PendingStarts {
    by_team: Mutex<ByTeam>,
}

type ByTeam = HashMap<TeamId, HashMap<u64, Pending>>;

/// A sandbox that will run, with enough of it to recognise it should the fleet list it as running before that is over.
enum Pending {
    Create {
        token: Option<Secret>,
        idempotency_key: Option<String>,
    },
    /// Several requests may resume the same sandbox; it counts once.
    Resume(SandboxId),
}

impl Pending {
    fn is(&self, record: &SandboxRecord) -> bool {
        match self {
            Self::Create { token, .. } => token.is_some() && token == &record.spec.envd_token,
            Self::Resume(id) => id == &record.spec.id,
        }
    }

    fn has_key(&self, key: &str) -> bool {
        matches!(self, Self::Create { idempotency_key: Some(own), .. } if own == key)
    }
}

/// A place in a team's limit, for a sandbox that is about to run; dropped when it does, or will not.
pub(crate) struct Place {
    starts: Arc<PendingStarts>,
    team: TeamId,
    ticket: u64,
}

impl PendingStarts {
    /// Takes a place for a create, or says that the team's limit is reached. A repeated create takes none: its sandbox
    /// is there or coming.
    pub(crate) fn create(
        self: &Arc<Self>,
        team: &Team,
        wanted: &CreateSandbox,
        fleet: &dyn Fleet,
    ) -> Result<Option<Place>, FleetError> {
        let mut by_team = self.lock();
        let all = fleet.list(&team.id);
        if let Some(key) = &wanted.idempotency_key
            && (all.iter().any(|record| record.spec.idempotency_key.as_ref() == Some(key))
                || by_team.get(&team.id).is_some_and(|pending| pending.values().any(|one| one.has_key(key))))
        {
            return Ok(None);
        }
        let entry = Pending::Create {
            token: wanted.envd_token.clone(),
            idempotency_key: wanted.idempotency_key.clone(),
        };
        self.enter(&mut by_team, team, entry, &all).map(Some)
    }

    /// Takes a place for a resume, or says that the team's limit is reached.
    pub(crate) fn resume(
        self: &Arc<Self>,
        team: &Team,
        id: &SandboxId,
        fleet: &dyn Fleet,
    ) -> Result<Place, FleetError> {
        let mut by_team = self.lock();
        let all = fleet.list(&team.id);
        self.enter(&mut by_team, team, Pending::Resume(id.clone()), &all)
    }

    fn enter(
        self: &Arc<Self>,
        by_team: &mut ByTeam,
        team: &Team,
        entry: Pending,
        all: &[SandboxRecord],
    ) -> Result<Place, FleetError> {
        let none = HashMap::new();
        let pending = by_team.get(&team.id).unwrap_or(&none);
        let settled = all.iter().filter(|record| {
            record.state == SandboxState::Running
                && !entry.is(record)
                && !pending.values().any(|other| other.is(record))
        });
        let (mut creates, mut resumes) = (0, BTreeSet::new());
        for other in pending.values() {
            match (other, &entry) {
                (Pending::Create { .. }, _) => creates += 1,
                (Pending::Resume(id), Pending::Resume(own)) if id == own => {}
                (Pending::Resume(id), _) => drop(resumes.insert(id)),
            }
        }
        let limit = team.limits.max_sandboxes;
        if settled.count() + creates + resumes.len() >= usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(FleetError::LimitReached(format!(
                "the team has reached its limit of {limit} sandboxes at once: kill or pause one, or ask the operator \
                 for more"
            )));
        }
        let ticket = (0..).find(|ticket| !pending.contains_key(ticket)).unwrap_or(u64::MAX);
        by_team.entry(team.id.clone()).or_default().insert(ticket, entry);
        Ok(Place { starts: self.clone(), team: team.id.clone(), ticket })
    }

    /// The map is whole even if a holder of the lock panicked.
    fn lock(&self) -> MutexGuard<'_, ByTeam> {
        self.by_team.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_team = self.starts.lock();
        if let Some(pending) = by_team.get_mut(&self.team) {
            pending.remove(&self.ticket);
            if pending.is_empty() {
                by_team.remove(&self.team);
            }
        }
    }
}
