//! What a request to a port of a paused sandbox has the API do.

use std::sync::atomic::Ordering;

use catalog::TeamLimits;
use model::{FleetError, SandboxId, SandboxState, TeamId};

use crate::fleet::{NO_MEMORY, NO_RESUME};
use crate::lifetime::{about, left};
use crate::scene::{Scene, until};

async fn limit(scene: &Scene, max_sandboxes: u32, max_hours: u32) {
    let limits = TeamLimits { max_sandboxes, max_hours };
    scene.catalog.set_team_limits(&scene.team.id, limits).await.unwrap();
}

#[tokio::test]
async fn it_lives_as_long_as_it_was_made_to() {
    let scene = Scene::new().await;
    for (seconds, hours, lives) in [(900, 24, 900), (77, 24, 300), (0, 24, 300), (7200, 1, 3600)] {
        limit(&scene, 9, hours).await;
        let mut record = scene.paused(9000, &[]);
        record.spec.timeout_secs = seconds;
        scene.fleet.insert(record.clone());
        scene.state.wake(&scene.team.id, &record.spec.id).await.unwrap();
        assert_eq!(scene.now(&record.spec.id).state, SandboxState::Running);
        about(left(&scene, &record), lives);
    }
}

#[tokio::test]
async fn many_at_once_resume_once_also_when_some_lose_patience() {
    let scene = Scene::new().await;
    limit(&scene, 1, 1).await;
    let id = scene.paused(1, &[]).spec.id;
    scene.fleet.open.send_replace(false);
    let wakes: Vec<_> = (0..20)
        .map(|_| {
            let (state, team, id) = (scene.state.clone(), scene.team.id.clone(), id.clone());
            tokio::spawn(async move { state.wake(&team, &id).await })
        })
        .collect();
    until("all wait", || scene.fleet.waiting.load(Ordering::SeqCst) == 20).await;
    for wake in &wakes[..10] {
        wake.abort();
    }
    scene.fleet.open.send_replace(true);
    for wake in wakes.into_iter().skip(10) {
        wake.await.unwrap().unwrap();
    }
    until("none waits", || scene.fleet.waiting.load(Ordering::SeqCst) == 0).await;
    assert_eq!(scene.fleet.resumed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_teams_limit_holds_for_traffic_too() {
    let scene = Scene::new().await;
    limit(&scene, 1, 1).await;
    let id = scene.paused(2, &[]).spec.id;
    let other = scene.sandbox(1, &[]).spec.id;
    let refused = scene.state.wake(&scene.team.id, &id).await;
    assert!(matches!(refused, Err(FleetError::LimitReached(_))), "{refused:?}");
    scene.fleet.put_to_sleep(&other);
    scene.state.wake(&scene.team.id, &id).await.unwrap();
    // One that runs has its place.
    scene.state.wake(&scene.team.id, &id).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_woken() {
    let scene = Scene::new().await;
    let broken = scene.paused(1, &[("test", NO_RESUME)]).spec.id;
    let refused = scene.state.wake(&scene.team.id, &broken).await;
    assert!(matches!(refused, Err(FleetError::StartFailed(_))), "{refused:?}");
    let (stranger, _) = scene.stranger().await;
    for (team, id) in [
        (&scene.team.id, SandboxId::random()),
        (&TeamId::random(), broken.clone()),
        (&stranger.id, broken.clone()),
    ] {
        let refused = scene.state.wake(team, &id).await;
        assert!(matches!(refused, Err(FleetError::NotFound(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_request_reboots_only_what_was_made_so() {
    let scene = Scene::new().await;
    let mut record = scene.paused(1, &[("test", NO_MEMORY)]);
    let id = record.spec.id.clone();
    let refused = scene.state.wake(&scene.team.id, &id).await;
    assert!(matches!(refused, Err(FleetError::NeedsReboot(_))), "{refused:?}");
    assert_eq!(scene.now(&id).state, SandboxState::Paused);
    record.spec.auto_resume_reboots = true;
    scene.fleet.insert(record);
    scene.state.wake(&scene.team.id, &id).await.unwrap();
    assert_eq!(scene.now(&id).state, SandboxState::Running);
}
