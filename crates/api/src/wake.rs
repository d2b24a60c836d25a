use std::time::Duration;

use model::{FleetError, SandboxId, TeamId, WayBack};

use crate::ApiState;

/// What a resume by traffic gives a sandbox at least: whoever sent the request has more to say.
const LEAST_LIFE: Duration = Duration::from_secs(300);

impl ApiState {
    /// Resumes a paused sandbox because a request to one of its ports came, for as long as it was made to live, at
    /// least five minutes. It takes its place in the team's limit as any other resume does. One that runs by then lives
    /// at least that long.
    ///
    /// Many at once resume it once, and a resume that began goes on when its caller goes away.
    ///
    /// # Errors
    /// As [`Fleet::connect`](model::Fleet::connect); [`FleetError::NotFound`], too, for a team that is no more.
    pub async fn wake(&self, team: &TeamId, id: &SandboxId) -> Result<(), FleetError> {
        let (state, team, id) = (self.clone(), team.clone(), id.clone());
        let work = async move {
            let broken =
                |error: &dyn std::fmt::Display| FleetError::Internal(format!("waking {id}: {error}"));
            let team = state.catalog().team_by_id(&team).await.map_err(|error| broken(&error))?;
            let team = team.ok_or_else(|| FleetError::NotFound(id.clone()))?;
            let record = state.fleet().get(&team.id, &id)?;
            let life = Duration::from_secs(record.spec.timeout_secs).max(LEAST_LIFE);
            let _place = state.pending().resume(&team, &id, state.fleet().as_ref())?;
            let life = life.min(state.max_life(&team));
            // Whoever sent the request would not be told.
            let way = if record.spec.auto_resume_reboots { WayBack::Best } else { WayBack::WithMemory };
            state.fleet().connect(&team.id, &id, life, way).await.map(drop)
        };
        tokio::spawn(work)
            .await
            .map_err(|error| FleetError::Internal(format!("waking a sandbox: {error}")))?
    }
}
