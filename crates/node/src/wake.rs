//! Making a sandbox run: one that runs lives longer, one that is paused is resumed, once, however many ask.

use std::time::Duration;

use control::{EndTime, Phase};
use jiff::{SignedDuration, Timestamp};
use model::{
    Connected, EndReason, FleetError, OnTimeout, PausedSandbox, SandboxId, SandboxRecord, SandboxSpec,
    TeamId, WayBack,
};

use crate::entry::Entry;
use crate::fleet::asked;
use crate::node::Node;

/// From a supervisor's last word, or its death, until its node has written down what became of the sandbox.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// What a look at a sandbox found.
enum Found {
    Runs(Box<SandboxRecord>),
    Paused,
}

impl Node {
    /// See [`model::Fleet::connect`].
    pub(crate) async fn wake(
        &self,
        id: &SandboxId,
        team: &TeamId,
        timeout: Duration,
        way: WayBack,
    ) -> Result<Connected, FleetError> {
        loop {
            if let Found::Runs(record) = self.extend(id, team, timeout).await? {
                return Ok(Connected { record: *record, resumed: false });
            }
            let transition = self.shared.paused.transition(id).await;
            // Somebody else may have resumed or deleted it while we waited for our turn.
            if self.entry(id).is_some() {
                continue;
            }
            let paused = self.shared.paused.get(id).ok_or_else(|| FleetError::NotFound(id.clone()))?;
            let record = self.resume_paused(&paused, timeout, way, None).await;
            drop(transition);
            return record.map(|record| Connected { record, resumed: true });
        }
    }

    /// See [`model::Fleet::resume`].
    pub(crate) async fn resume_now(
        &self,
        team: &TeamId,
        id: &SandboxId,
        timeout: Duration,
        way: WayBack,
        auto_pause: Option<bool>,
    ) -> Result<SandboxRecord, FleetError> {
        let _transition = self.shared.paused.transition(id).await;
        if let Some(entry) = self.entry(id).filter(|entry| entry.spec.team == *team) {
            let pausing = entry.view.borrow().pausing;
            let runs = if pausing { self.settled(&entry).await } else { entry.exists() };
            if runs {
                return Err(FleetError::Conflict(format!("sandbox {id} is running already")));
            }
            entry.released.cancelled().await;
        }
        let paused = self.shared.paused.get(id).filter(|paused| paused.spec.team == *team);
        let paused = paused.ok_or_else(|| FleetError::NotFound(id.clone()))?;
        self.resume_paused(&paused, timeout, way, auto_pause).await
    }

    /// Gives a sandbox that runs, or is about to, more time. A pause that is under way is taken back, or waited for.
    async fn extend(&self, id: &SandboxId, team: &TeamId, timeout: Duration) -> Result<Found, FleetError> {
        let ours = |spec: &SandboxSpec| spec.team == *team;
        let not_found = || FleetError::NotFound(id.clone());
        let Some(entry) = self.entry(id) else {
            let paused = self.shared.paused.get(id).filter(|paused| ours(&paused.spec));
            return paused.map(|_| Found::Paused).ok_or_else(not_found);
        };
        if !ours(&entry.spec) {
            return Err(not_found());
        }
        let phase = entry.view.borrow().phase;
        if entry.view.borrow().ended.is_some() || phase == Phase::Ending {
            entry.released.cancelled().await;
            return if self.shared.paused.get(id).is_some() { Ok(Found::Paused) } else { Err(not_found()) };
        }
        if phase == Phase::Starting
            && let Err(error) = entry.started().await
        {
            let damaged = matches!(entry.view.borrow().ended, Some(EndReason::MemoryUnusable(_)));
            // Whoever started it boots it from its disk now, and has the transition until that is done.
            return if damaged && entry.resumed { Ok(Found::Paused) } else { Err(error) };
        }
        match self.move_end(&entry, timeout, true, true).await {
            Ok(record) if self.settled(&entry).await => Ok(Found::Runs(Box::new(record))),
            // It ended meanwhile, one way or the other: the next look tells.
            _ if entry.view.borrow().ended.is_some() => Ok(Found::Paused),
            Ok(record) => Ok(Found::Runs(Box::new(record))),
            // A supervisor that leaves, or is killed, while it is asked is heard of in a moment.
            Err(_) if entry.ended_within(END_PATIENCE).await => Ok(Found::Paused),
            Err(error) => Err(error),
        }
    }

    /// Waits until a sandbox that was being paused runs again or is over; whether it runs.
    async fn settled(&self, entry: &Entry) -> bool {
        let mut view = entry.view.clone();
        let settled = view.wait_for(|view| view.phase == Phase::Running || view.ended.is_some()).await;
        let runs = settled.is_ok_and(|view| view.ended.is_none());
        if !runs {
            entry.released.cancelled().await;
        }
        runs
    }

    /// Moves the end time to `timeout` from now.
    pub(crate) async fn move_end(
        &self,
        entry: &Entry,
        timeout: Duration,
        only_extend: bool,
        wake: bool,
    ) -> Result<SandboxRecord, FleetError> {
        let timeout = SignedDuration::try_from(timeout).unwrap_or(SignedDuration::MAX);
        let end_at = Timestamp::now().saturating_add(timeout).unwrap_or(Timestamp::MAX);
        let end = EndTime { end_at, only_extend, wake };
        let status = entry.client.set_end(end).await.map_err(|error| asked(entry, &error))?;
        // The supervisor pushes the change; whoever asks after this call returned must not be told the old time.
        let mut seen = entry.view.clone();
        let arrived = seen.wait_for(|view| view.end_at == status.end_at || view.ended.is_some());
        let _ = tokio::time::timeout(crate::fleet::PUSH_PATIENCE, arrived).await;
        Ok(SandboxRecord { end_at: status.end_at, ..entry.record() })
    }

    /// Starts a paused sandbox. Its caller holds the transition, and nothing of it runs.
    async fn resume_paused(
        &self,
        paused: &PausedSandbox,
        timeout: Duration,
        way: WayBack,
        auto_pause: Option<bool>,
    ) -> Result<SandboxRecord, FleetError> {
        let mut spec = paused.spec.clone();
        spec.end_at = crate::start::end_of(Timestamp::now(), timeout);
        match auto_pause {
            Some(true) => spec.on_timeout = OnTimeout::Pause,
            Some(false) => spec.on_timeout = OnTimeout::Kill,
            None => {}
        }
        // A sandbox that exists is not made again by the key that made it.
        self.start_from(spec, &paused.build, way).await
    }
}
