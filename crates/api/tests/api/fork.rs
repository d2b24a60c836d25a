//! Forks: what they make, what they answer, and that nothing is left of them.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::ApiConfig;
use catalog::TeamLimits;
use model::{OnTimeout, SandboxId, SandboxRecord, SandboxState, Secret};
use serde_json::{Value, json};

use crate::client::Answer;
use crate::fleet::{FAIL, NO_CAPACITY, NO_SNAPSHOT, PANIC};
use crate::lifetime::{about, left};
use crate::scene::{Scene, until};

/// Starts of one fork at once.
const STARTS: usize = 8;

async fn limit(scene: &Scene, max_sandboxes: u32) {
    let limits = TeamLimits { max_sandboxes, max_hours: 24 };
    scene.catalog.set_team_limits(&scene.team.id, limits).await.unwrap();
}

async fn fork(scene: &Scene, id: &SandboxId, body: &Value) -> Answer {
    scene.client().post(&format!("/sandboxes/{id}/fork"), body).await
}

/// The sandboxes of an answer, and the errors in it.
fn parts(scene: &Scene, answer: Answer) -> (Vec<SandboxRecord>, Vec<Value>) {
    let (mut sandboxes, mut errors) = (Vec::new(), Vec::new());
    for entry in answer.is(201).as_array().unwrap() {
        let entry = entry.as_object().unwrap();
        assert_eq!(entry.len(), 1, "{entry:?}");
        if let Some(sandbox) = entry.get("sandbox") {
            sandboxes.push(scene.now(&sandbox["sandboxID"].as_str().unwrap().parse().unwrap()));
        } else {
            errors.push(entry["error"].clone());
        }
    }
    (sandboxes, errors)
}

/// Nobody can make sandboxes from what a fork made.
fn is_forgotten(scene: &Scene, snapshots: usize) -> bool {
    let builds = scene.fleet.builds.lock().unwrap();
    builds.kept.is_empty() && builds.forgotten.len() == snapshots
}

#[tokio::test]
async fn each_is_like_the_source_with_an_id_and_tokens_of_its_own() {
    let scene = Scene::with(ApiConfig { domain: Some("sbx.test".into()), ..ApiConfig::default() }).await;
    let mut source = scene.sandbox(100, &[("a", "b")]);
    source.spec.env.insert("MARK".into(), "1".into());
    source.spec.network.allow_internet = true;
    source.spec.network.mask_request_host = Some("app.test".into());
    source.spec.on_timeout = OnTimeout::Pause;
    source.spec.auto_resume = true;
    source.spec.traffic_token = Some(Secret::random("", 32));
    source.spec.idempotency_key = Some("of-the-source".into());
    scene.fleet.insert(source.clone());

    let answer = fork(&scene, &source.spec.id, &json!({"timeout": 77, "count": 3})).await;
    let entries = answer.body.as_array().unwrap().clone();
    let (forks, errors) = parts(&scene, answer);
    assert_eq!((forks.len(), errors.len()), (3, 0));
    for (entry, record) in entries.iter().zip(&forks) {
        let (spec, shown) = (&record.spec, &entry["sandbox"]);
        assert_eq!(shown["templateID"], scene.base.id.as_str());
        assert_eq!(shown["alias"], "base");
        assert_eq!(shown["clientID"], "6532622b");
        assert_eq!(shown["envdVersion"], model::ENVD_VERSION);
        assert_eq!(shown["domain"], "sbx.test");
        assert_eq!(shown["envdAccessToken"], spec.envd_token.as_ref().unwrap().expose());
        assert_eq!(shown["trafficAccessToken"], spec.traffic_token.as_ref().unwrap().expose());
        assert_eq!((&spec.metadata, &spec.env), (&source.spec.metadata, &source.spec.env));
        assert_eq!(spec.network, source.spec.network);
        assert_eq!((spec.on_timeout, spec.auto_resume), (OnTimeout::Pause, true));
        assert_eq!((spec.shape, spec.timeout_secs), (source.spec.shape, 77));
        assert_eq!(spec.idempotency_key, None);
        assert_eq!(spec.build, forks[0].spec.build);
        about(left(&scene, record), 77);
    }
    assert_ne!(forks[0].spec.build, source.spec.build);
    let tokens: HashSet<_> = forks
        .iter()
        .chain([&source])
        .flat_map(|record| [record.spec.envd_token.as_ref(), record.spec.traffic_token.as_ref()])
        .map(|token| token.unwrap().expose().to_owned())
        .collect();
    assert_eq!(tokens.len(), 8, "every token is of one sandbox");
    assert_eq!(scene.fleet.snapshotted.load(Ordering::SeqCst), 1);
    assert!(is_forgotten(&scene, 1));
    let now = scene.now(&source.spec.id);
    assert_eq!((now.state, now.end_at), (SandboxState::Running, source.end_at));
    assert_eq!(scene.client().get("/snapshots").await.is(200), json!([]));
}

#[tokio::test]
async fn without_a_body_it_is_one_for_five_minutes() {
    let scene = Scene::new().await;
    let mut source = scene.sandbox(1, &[]);
    source.spec.envd_token = None;
    scene.fleet.insert(source.clone());
    let path = format!("/sandboxes/{}-6532622b/fork", source.spec.id);
    for body in ["", "{}", r#"{"timeout":null,"count":null}"#, r#"{"count":1,"later":[]}"#] {
        let (forks, _) = parts(&scene, scene.client().post_text(&path, body).await);
        assert_eq!(forks.len(), 1, "{body}");
        about(left(&scene, &forks[0]), 300);
        assert!(forks[0].spec.envd_token.is_none(), "the source is open, too");
        assert!(forks[0].spec.traffic_token.is_none());
    }
}

#[tokio::test]
async fn what_cannot_be_forked_costs_nothing() {
    let scene = Scene::new().await;
    let running = scene.sandbox(1, &[]).spec.id;
    let paused = scene.paused(1, &[]).spec.id;
    for (id, body, status, text) in [
        (&running, json!({"count": 0}), 400, "count must be a number from 1 to 100, not 0"),
        (&running, json!({"count": 101}), 400, "count must be a number from 1 to 100"),
        (&running, json!({"count": -1}), 400, "count"),
        (&running, json!({"count": i64::MAX}), 400, "count"),
        (&running, json!({"count": 1.5}), 400, "count"),
        (&running, json!({"count": "2"}), 400, "count"),
        (&running, json!({"timeout": 0}), 400, "timeout must be at least 1 second"),
        (&running, json!({"timeout": -5}), 400, "timeout must be at least 1 second"),
        (&running, json!({"timeout": 86_401}), 400, "from 0 to 86400 seconds"),
        (&running, json!([]), 400, "request body"),
        (&paused, json!({}), 409, "is paused and cannot be forked"),
        (&SandboxId::random(), json!({}), 404, "exist"),
    ] {
        fork(&scene, id, &body).await.is_error(status, text);
    }
    let (_, stranger) = scene.stranger().await;
    stranger.post(&format!("/sandboxes/{running}/fork"), &json!({})).await.is_error(404, "exist");
    assert_eq!(scene.fleet.snapshotted.load(Ordering::SeqCst), 0);

    // It is paused just after it was seen running.
    scene.fleet.shown_running.lock().unwrap().insert(paused.clone());
    fork(&scene, &paused, &json!({})).await.is_error(409, "is paused");
    scene.fleet.shown_running.lock().unwrap().clear();
    let full = scene.sandbox(1, &[("test", NO_SNAPSHOT)]).spec.id;
    let answer = fork(&scene, &full, &json!({"count": 2})).await;
    answer.is_error(503, "no space");
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(scene.fleet.all().len(), 3);
    limit(&scene, 5).await;
    assert_eq!(
        parts(&scene, fork(&scene, &running, &json!({"count": 4})).await).0.len(),
        3,
        "places are given back"
    );
}

#[tokio::test]
async fn those_beyond_the_teams_limit_are_told_so() {
    let scene = Scene::new().await;
    limit(&scene, 4).await;
    let id = scene.sandbox(1, &[]).spec.id;
    let (forks, errors) = parts(&scene, fork(&scene, &id, &json!({"count": 5})).await);
    assert_eq!((forks.len(), errors.len()), (3, 2));
    for error in errors {
        assert_eq!(error["code"], 429);
        assert!(error["message"].as_str().unwrap().contains("limit of 4 sandboxes"), "{error}");
    }
    assert!(is_forgotten(&scene, 1));
    // For nobody no snapshot is made.
    let (forks, errors) = parts(&scene, fork(&scene, &id, &json!({"count": 2})).await);
    assert_eq!((forks.len(), errors.len()), (0, 2));
    assert_eq!(scene.fleet.snapshotted.load(Ordering::SeqCst), 1);
    scene.client().delete(&format!("/sandboxes/{id}")).await.is(204);
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
}

#[tokio::test]
async fn forks_and_creates_at_once_keep_to_the_limit() {
    let scene = Scene::new().await;
    limit(&scene, 10).await;
    let id = scene.sandbox(1, &[]).spec.id;
    let tasks: Vec<_> = (0..6)
        .map(|n| {
            let (client, path) = (scene.client(), format!("/sandboxes/{id}/fork"));
            tokio::spawn(async move {
                if n % 2 == 0 {
                    client.post(&path, &json!({"count": 4})).await.is(201);
                } else {
                    client.post("/v2/sandboxes", &json!({"templateID": "base"})).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(scene.fleet.all().len(), 10);
}

#[tokio::test]
async fn what_goes_wrong_with_one_is_its_own_affair() {
    let scene = Scene::new().await;
    for (what, code, error_code, text) in [
        (NO_CAPACITY, 503, "sandbox_capacity_unavailable", "no memory left"),
        (FAIL, 500, "sandbox_create_failed", "did not become ready"),
        (PANIC, 500, "internal_server_error", "internal server error"),
    ] {
        let before = scene.fleet.snapshotted.load(Ordering::SeqCst);
        let id = scene.sandbox(1, &[("test", what)]).spec.id;
        let (forks, errors) = parts(&scene, fork(&scene, &id, &json!({"count": 2})).await);
        assert_eq!((forks.len(), errors.len()), (0, 2), "{what}");
        for error in errors {
            assert_eq!((&error["code"], &error["error_code"]), (&json!(code), &json!(error_code)));
            assert!(error["message"].as_str().unwrap().contains(text), "{error}");
        }
        assert!(is_forgotten(&scene, before + 1), "{what}");
        assert_eq!(scene.now(&id).state, SandboxState::Running);
    }
}

#[tokio::test]
async fn a_few_start_at_once_and_all_start() {
    let scene = Scene::new().await;
    let id = scene.sandbox(1, &[]).spec.id;
    scene.fleet.open_to_creates.send_replace(false);
    let (client, path) = (scene.client(), format!("/sandboxes/{id}/fork"));
    let asked = tokio::spawn(async move { client.post(&path, &json!({"count": 30})).await });
    until("as many as may start", || scene.fleet.waiting.load(Ordering::SeqCst) == STARTS).await;
    // The others have their places already.
    limit(&scene, 31).await;
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is_error(429, "limit of 31");
    assert_eq!(scene.fleet.waiting.load(Ordering::SeqCst), STARTS);
    scene.fleet.open_to_creates.send_replace(true);
    let (forks, errors) = parts(&scene, asked.await.unwrap());
    assert_eq!((forks.len(), errors.len()), (30, 0));
    assert!(is_forgotten(&scene, 1));
}

#[tokio::test]
async fn a_fork_takes_its_turn_among_the_servers_creates() {
    let scene = Scene::with(ApiConfig { max_creates: 2, ..ApiConfig::default() }).await;
    let id = scene.sandbox(1, &[]).spec.id;
    scene.fleet.open.send_replace(false);
    let creates: Vec<_> = (0..2)
        .map(|_| {
            let client = scene.client();
            tokio::spawn(async move { client.post("/v2/sandboxes", &json!({"templateID": "base"})).await })
        })
        .collect();
    until("two creates are under way", || scene.fleet.waiting.load(Ordering::SeqCst) == 2).await;
    fork(&scene, &id, &json!({})).await.is_error(503, "too many sandboxes are being created");
    scene.fleet.open.send_replace(true);
    for create in creates {
        create.await.unwrap().is(201);
    }
    let (forks, errors) = parts(&scene, fork(&scene, &id, &json!({"count": 9})).await);
    assert_eq!((forks.len(), errors.len()), (9, 0));
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
}

#[tokio::test]
async fn nothing_is_left_of_a_fork_that_nobody_waited_for() {
    let config = ApiConfig { create_deadline: Duration::from_millis(100), ..ApiConfig::default() };
    let scene = Scene::with(config).await;
    let id = scene.sandbox(1, &[]).spec.id;
    // Once it is late with the snapshot, once with the sandboxes.
    for (snapshots, gate) in [(1, &scene.fleet.open), (2, &scene.fleet.open_to_creates)] {
        gate.send_replace(false);
        fork(&scene, &id, &json!({"count": 20})).await.is_error(504, "took longer than");
        gate.send_replace(true);
        until("the snapshot is forgotten", || is_forgotten(&scene, snapshots)).await;
        until("the sandboxes are ended", || scene.fleet.all().len() == 1).await;
    }
    // Those that had begun, and no others.
    assert_eq!(scene.fleet.created.load(Ordering::SeqCst), STARTS);
    assert_eq!(scene.fleet.killed.load(Ordering::SeqCst), STARTS);
    limit(&scene, 21).await;
    let (forks, _) = parts(&scene, fork(&scene, &id, &json!({"count": 20})).await);
    assert_eq!(forks.len(), 20, "no place is taken for ever");
}
