//! What a create makes, what it answers, and how often.

use std::sync::atomic::Ordering;
use std::time::Duration;

use api::ApiConfig;
use axum::body::Body;
use catalog::TeamLimits;
use http::Method;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::client::{Answer, Client};
use crate::fleet::{FAIL, NO_CAPACITY, PANIC};
use crate::scene::{SHAPE, Scene, template, until};

async fn create_with_key(client: &Client, key: &str, body: &Value) -> Answer {
    let request = client.request(Method::POST, "/v2/sandboxes").header("Idempotency-Key", key);
    client.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn the_second_version_is_always_secured_and_lives_five_minutes() {
    let config = ApiConfig { domain: Some("sbx.test".into()), ..ApiConfig::default() };
    let scene = Scene::with(config).await;
    let body = scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
    assert_eq!(body["templateID"], scene.base.id.as_str());
    assert_eq!(body["alias"], "base");
    assert_eq!(body["clientID"], "6532622b");
    assert_eq!(body["envdVersion"], "0.6.13");
    assert_eq!(body["domain"], "sbx.test");
    assert_eq!(body["trafficAccessToken"], Value::Null);
    assert_eq!(body["envdAccessToken"].as_str().unwrap().len(), 64);
    let record = &scene.fleet.all()[0];
    assert_eq!(body["sandboxID"], record.spec.id.as_str());
    assert_eq!(record.spec.shape, SHAPE);
    assert_eq!(record.spec.build, scene.base.build);
    assert!(record.spec.network.allow_internet && record.spec.network.allow_public_traffic);
    let life = record.end_at.duration_since(record.spec.started_at);
    assert_eq!(life.as_secs(), 300);
}

#[tokio::test]
async fn the_first_version_has_a_token_only_when_asked_and_lives_fifteen_seconds() {
    let scene = Scene::new().await;
    let open = scene.client().post("/sandboxes", &json!({"templateID": "base"})).await.is(201);
    assert!(open.get("envdAccessToken").is_none());
    let record = &scene.fleet.all()[0];
    assert_eq!(record.end_at.duration_since(record.spec.started_at).as_secs(), 15);
    let body = json!({"templateID": "base", "secure": true, "timeout": 60});
    let secured = scene.client().post("/sandboxes", &body).await.is(201);
    assert_eq!(secured["envdAccessToken"].as_str().unwrap().len(), 64);
}

#[tokio::test]
async fn everything_that_is_asked_for_reaches_the_fleet() {
    let scene = Scene::new().await;
    let body = json!({
        "templateID": scene.base.id.as_str(),
        "timeout": 77,
        "metadata": {"user": "ä 猫", "empty": ""},
        "envVars": {"PATH_X": "/a:/b", "MULTI": "a\nb"},
        "allow_internet_access": false,
        "network": {"allowPublicTraffic": false, "maskRequestHost": "app.example.com:${PORT}"},
    });
    let answer = scene.client().post("/v2/sandboxes", &body).await.is(201);
    assert_eq!(answer["trafficAccessToken"].as_str().unwrap().len(), 64);
    assert_ne!(answer["trafficAccessToken"], answer["envdAccessToken"]);
    let spec = &scene.fleet.all()[0].spec;
    assert_eq!(spec.metadata["user"], "ä 猫");
    assert_eq!(spec.metadata["empty"], "");
    assert_eq!(spec.env["MULTI"], "a\nb");
    assert!(!spec.network.allow_internet && !spec.network.allow_public_traffic);
    assert_eq!(spec.network.mask_request_host.as_deref(), Some("app.example.com:${PORT}"));
    assert_eq!(spec.alias, None, "it was asked for by id");
}

#[tokio::test]
async fn what_clients_send_by_default_is_no_request_for_something_missing() {
    let scene = Scene::new().await;
    let body = json!({
        "templateID": "base", "timeout": 300, "secure": true, "autoPause": false, "autoPauseMemory": true,
        "autoResume": {"enabled": false}, "metadata": {}, "envVars": {}, "mcp": null, "iam": {"tokens": {}},
        "volumeMounts": [], "somethingFromTheFuture": 1, "allow_internet_access": true,
        "network": {"allowOut": [], "denyOut": [], "rules": {}, "egressProxy": null, "httpsPorts": []},
    });
    scene.client().post("/v2/sandboxes", &body).await.is(201);
    scene.client().post("/sandboxes", &body).await.is(201);
    let nulls = json!({
        "templateID": "base", "timeout": null, "autoPause": null, "autoResume": null, "metadata": null,
        "envVars": null, "network": null, "iam": null, "volumeMounts": null, "allow_internet_access": null,
    });
    scene.client().post("/v2/sandboxes", &nulls).await.is(201);
}

#[tokio::test]
async fn a_team_starts_its_own_templates_by_every_name() {
    let scene = Scene::new().await;
    let rose = template(Some(&scene.team), "rose");
    scene.catalog.put_template(&rose).await.unwrap();
    for name in ["rose", "garden/rose", "rose:default", "ROSE"] {
        let body = scene.client().post("/v2/sandboxes", &json!({"templateID": name})).await.is(201);
        assert_eq!(
            (&body["templateID"], &body["alias"]),
            (&json!(rose.id.as_str()), &json!("rose")),
            "{name}"
        );
    }
}

#[tokio::test]
async fn creates_are_counted_in_the_template() {
    let scene = Scene::new().await;
    for _ in 0..3 {
        scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
    }
    let start = std::time::Instant::now();
    loop {
        let template = scene.catalog.template_by_name(&scene.team.id, "base").await.unwrap();
        if template.spawn_count == 3 {
            assert!(template.last_spawned_at.unwrap() <= Timestamp::now());
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "only {} are counted", template.spawn_count);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_repeated_key_gives_the_same_sandbox() {
    let scene = Scene::new().await;
    let body = json!({"templateID": "base", "metadata": {"a": "b"}});
    let first = create_with_key(&scene.client(), "key-1", &body).await.is(201);
    let again = create_with_key(&scene.client(), "key-1", &body).await.is(201);
    assert_eq!(first, again);
    let other = create_with_key(&scene.client(), "key-2", &body).await.is(201);
    assert_ne!(first["sandboxID"], other["sandboxID"]);
    let (_, stranger) = scene.stranger().await;
    let theirs = create_with_key(&stranger, "key-1", &body).await.is(201);
    assert_ne!(first["sandboxID"], theirs["sandboxID"]);

    let different = json!({"templateID": "base", "metadata": {"a": "c"}});
    let refused = create_with_key(&scene.client(), "key-1", &different).await;
    refused.is_error(422, "used before for a different request");
    assert_eq!(refused.body["error_code"], "idempotency_request_mismatch");
    assert_eq!(scene.fleet.created.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_bad_idempotency_key_is_refused() {
    let scene = Scene::new().await;
    let long = "a".repeat(256);
    for key in ["UPPER", "a_b", "ä", "", long.as_str()] {
        let answer = create_with_key(&scene.client(), key, &json!({"templateID": "base"})).await;
        answer.is_error(400, "Idempotency-Key");
    }
}

#[tokio::test]
async fn no_more_than_the_teams_limit_even_at_once() {
    let scene = Scene::new().await;
    let limits = TeamLimits { max_sandboxes: 5, max_hours: 1 };
    scene.catalog.set_team_limits(&scene.team.id, limits).await.unwrap();
    let body = json!({"templateID": "base"});
    let creates = (0..20).map(|_| {
        let (client, body) = (scene.client(), body.clone());
        tokio::spawn(async move { client.post("/v2/sandboxes", &body).await })
    });
    let creates: Vec<_> = creates.collect();
    let mut made = 0;
    for create in creates {
        let answer = create.await.unwrap();
        if answer.status == 201 {
            made += 1;
        } else {
            answer.is_error(429, "limit of 5 sandboxes");
        }
    }
    assert_eq!((made, scene.fleet.all().len()), (5, 5));

    let id = scene.fleet.all()[0].spec.id.clone();
    scene.client().delete(&format!("/sandboxes/{id}")).await.is(204);
    create_with_key(&scene.client(), "last-place", &body).await.is(201);
    scene.client().post("/v2/sandboxes", &body).await.is_error(429, "limit");
    create_with_key(&scene.client(), "last-place", &body).await.is(201);
}

#[tokio::test]
async fn the_limits_of_one_team_do_not_touch_another() {
    let scene = Scene::new().await;
    let limits = TeamLimits { max_sandboxes: 0, max_hours: 1 };
    scene.catalog.set_team_limits(&scene.team.id, limits).await.unwrap();
    let (_, stranger) = scene.stranger().await;
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is_error(429, "limit");
    stranger.post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
}

#[tokio::test]
async fn what_goes_wrong_in_the_fleet_is_told_in_the_words_clients_know() {
    let scene = Scene::new().await;
    let ask = async |what: &str| {
        let body = json!({"templateID": "base", "metadata": {"test": what}});
        scene.client().post("/v2/sandboxes", &body).await
    };
    let full = ask(NO_CAPACITY).await;
    full.is_error(503, "no memory left");
    assert_eq!(full.body["error_code"], "sandbox_capacity_unavailable");
    assert_eq!(full.header("retry-after"), Some("1"));
    let failed = ask(FAIL).await;
    failed.is_error(500, "did not become ready");
    assert_eq!(failed.body["error_code"], "sandbox_create_failed");
    let broken = ask(PANIC).await;
    broken.is_error(500, "internal server error");
    assert!(!broken.body["message"].as_str().unwrap().contains("bug"), "details are for the log");
    ask("nothing").await.is(201);
}

#[tokio::test]
async fn more_creates_than_the_server_takes_at_once_are_turned_away() {
    let scene = Scene::with(ApiConfig { max_creates: 2, ..ApiConfig::default() }).await;
    scene.fleet.open.send_replace(false);
    let creates: Vec<_> = (0..2)
        .map(|_| {
            let client = scene.client();
            tokio::spawn(async move { client.post("/v2/sandboxes", &json!({"templateID": "base"})).await })
        })
        .collect();
    until("two creates are under way", || scene.fleet.waiting.load(Ordering::SeqCst) == 2).await;
    let third = scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await;
    third.is_error(503, "too many sandboxes are being created");
    assert_eq!(third.body["error_code"], "sandbox_capacity_unavailable");
    scene.client().get("/v2/sandboxes").await.is(200);
    scene.fleet.open.send_replace(true);
    for create in creates {
        create.await.unwrap().is(201);
    }
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
}
