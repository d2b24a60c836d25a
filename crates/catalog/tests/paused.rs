//! Paused sandboxes in a real file.
#![allow(clippy::unwrap_used, reason = "a failed step is a failed test")]

mod support;

use std::collections::BTreeMap;

use catalog::CatalogError;
use jiff::{SignedDuration, Timestamp};
use model::{
    BuildId, MiB, NetworkPolicy, OnTimeout, PausedSandbox, SandboxId, SandboxSpec, Secret, Shape, TeamId,
    TemplateId, VcpuCount,
};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use support::Scene;

fn now() -> Timestamp {
    Timestamp::from_microsecond(Timestamp::now().as_microsecond()).unwrap()
}

fn paused() -> PausedSandbox {
    PausedSandbox {
        spec: SandboxSpec {
            id: SandboxId::random(),
            team: TeamId::random(),
            template: TemplateId::random(),
            alias: Some("base".into()),
            build: BuildId::random(),
            shape: Shape { vcpus: VcpuCount(2), memory: MiB(512), disk: MiB(4096) },
            metadata: BTreeMap::from([("user".into(), "ä 猫 ' \"".into())]),
            env: BTreeMap::from([("A".into(), "b\nc".into())]),
            network: NetworkPolicy { allow_internet: true, ..NetworkPolicy::default() },
            on_timeout: OnTimeout::Pause,
            auto_pause_memory: true,
            auto_resume: true,
            auto_resume_reboots: true,
            timeout_secs: 300,
            envd_token: Some(Secret::random("", 32)),
            traffic_token: None,
            started_at: now(),
            end_at: now() + SignedDuration::from_secs(300),
            idempotency_key: Some("key".into()),
        },
        build: BuildId::random(),
        paused_at: now(),
        envd_version: model::ENVD_VERSION.into(),
    }
}

/// Equal in everything that is kept.
#[track_caller]
fn same(a: &PausedSandbox, b: &PausedSandbox) {
    let json = |one: &PausedSandbox| serde_json::to_value(&one.spec).unwrap();
    assert_eq!(json(a), json(b));
    assert_eq!((&a.build, a.paused_at), (&b.build, b.paused_at));
    assert_eq!(a.envd_version, b.envd_version);
}

#[tokio::test]
async fn what_is_paused_is_there_after_a_restart() {
    let scene = Scene::new().await;
    assert!(scene.catalog.paused().await.unwrap().is_empty());
    let mut all = [paused(), paused(), paused()];
    all.sort_by(|a, b| a.spec.id.cmp(&b.spec.id));
    for one in all.iter().rev() {
        scene.catalog.put_paused(one).await.unwrap();
    }
    scene.catalog.close().await;
    let again = scene.another_process().await;
    let listed = again.paused().await.unwrap();
    assert_eq!(listed.len(), 3);
    for (one, other) in all.iter().zip(&listed) {
        same(one, other);
    }
}

#[tokio::test]
async fn another_pause_of_the_same_sandbox_replaces_the_first() {
    let scene = Scene::new().await;
    let (first, bystander) = (paused(), paused());
    scene.catalog.put_paused(&first).await.unwrap();
    scene.catalog.put_paused(&bystander).await.unwrap();
    let mut second = PausedSandbox { spec: first.spec.clone(), ..paused() };
    second.spec.on_timeout = OnTimeout::Kill;
    scene.catalog.put_paused(&second).await.unwrap();
    let listed = scene.catalog.paused().await.unwrap();
    assert_eq!(listed.len(), 2);
    for wanted in [&second, &bystander] {
        same(wanted, listed.iter().find(|one| one.spec.id == wanted.spec.id).unwrap());
    }
}

#[tokio::test]
async fn what_is_no_more_is_forgotten_whole() {
    let scene = Scene::new().await;
    let (gone, stays) = (paused(), paused());
    for one in [&gone, &stays] {
        scene.catalog.put_paused(one).await.unwrap();
    }
    assert!(scene.catalog.remove_paused(&gone.spec.id).await.unwrap());
    assert!(!scene.catalog.remove_paused(&gone.spec.id).await.unwrap());
    let listed = scene.catalog.paused().await.unwrap();
    assert_eq!(listed.len(), 1);
    same(&stays, &listed[0]);
}

/// Changes the file as no Coldframe does.
async fn spoil(scene: &Scene, statement: &'static str) {
    let pool = SqlitePool::connect_with(SqliteConnectOptions::new().filename(scene.path())).await.unwrap();
    sqlx::query(statement).execute(&pool).await.unwrap();
    pool.close().await;
}

#[tokio::test]
async fn a_damaged_row_is_an_error_that_names_the_sandbox_and_tells_no_token() {
    for statement in [
        "UPDATE paused_sandboxes SET spec = substr(spec, 1, length(spec) - 9)",
        "UPDATE paused_sandboxes SET spec = replace(spec, '\"envd_token\":\"', '\"team\":\"TOKEN ')",
        "UPDATE paused_sandboxes SET spec = replace(spec, '\"id\":\"i', '\"id\":\"x')",
    ] {
        let scene = Scene::new().await;
        let one = paused();
        scene.catalog.put_paused(&one).await.unwrap();
        spoil(&scene, statement).await;
        let error = scene.catalog.paused().await.unwrap_err();
        assert!(matches!(error, CatalogError::Damaged { .. }), "{error}");
        let text = format!("{error} {error:?}");
        assert!(text.contains(one.spec.id.as_str()), "{text}");
        assert!(!text.contains(one.spec.envd_token.as_ref().unwrap().expose()), "{text}");
    }
    let scene = Scene::new().await;
    scene.catalog.put_paused(&paused()).await.unwrap();
    spoil(&scene, "UPDATE paused_sandboxes SET build_id = '../x'").await;
    let error = scene.catalog.paused().await.unwrap_err();
    assert!(error.to_string().contains("damaged build id"), "{error}");
}

#[tokio::test]
async fn a_catalog_from_before_sandboxes_paused_gets_the_table() {
    let scene = Scene::new().await;
    let team = scene.catalog.ensure_team("garden", "The garden").await.unwrap();
    scene.catalog.close().await;
    for statement in ["DROP TABLE paused_sandboxes", "DELETE FROM _sqlx_migrations WHERE version IN (2, 4)"] {
        spoil(&scene, statement).await;
    }
    let newer = scene.another_process().await;
    assert_eq!(newer.team_by_id(&team.id).await.unwrap(), Some(team));
    newer.put_paused(&paused()).await.unwrap();
    assert_eq!(newer.paused().await.unwrap().len(), 1);
}
