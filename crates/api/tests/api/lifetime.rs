//! Moving and reaching the end.

use catalog::TeamLimits;
use jiff::{SignedDuration, Timestamp};
use model::SandboxRecord;
use serde_json::json;

use crate::scene::Scene;

pub(crate) fn left(scene: &Scene, record: &SandboxRecord) -> i64 {
    scene.now(&record.spec.id).end_at.duration_since(Timestamp::now()).as_secs()
}

pub(crate) fn about(seconds: i64, expected: i64) {
    assert!((expected - 5..=expected).contains(&seconds), "{seconds} s are left, not about {expected} s");
}

#[tokio::test]
async fn the_end_time_moves_both_ways_and_zero_is_now() {
    let scene = Scene::new().await;
    let record = scene.sandbox(10, &[]);
    let path = format!("/sandboxes/{}/timeout", record.spec.id);
    for seconds in [7200, 60, 0] {
        scene.client().post(&path, &json!({"timeout": seconds})).await.is(204);
        about(left(&scene, &record), seconds);
    }
}

#[tokio::test]
async fn connecting_and_refreshing_never_shorten() {
    let scene = Scene::new().await;
    let record = scene.sandbox(0, &[]);
    let id = &record.spec.id;
    let connect = format!("/sandboxes/{id}/connect");
    let body = scene.client().post(&connect, &json!({"timeout": 60})).await.is(200);
    assert_eq!(body["sandboxID"], id.as_str());
    assert_eq!(body["envdAccessToken"], record.spec.envd_token.as_ref().unwrap().expose());
    scene.client().post(&format!("/v2{connect}"), &json!({})).await.is(200);
    scene.client().post_text(&format!("/v2{connect}"), "").await.is(200);
    scene.client().post(&format!("/v2{connect}"), &json!({"timeout": 0, "memory": false})).await.is(200);
    scene.client().post(&format!("/sandboxes/{id}/refreshes"), &json!({"duration": 60})).await.is(204);
    scene.client().post(&format!("/sandboxes/{id}/refreshes"), &json!({})).await.is(204);
    about(left(&scene, &record), 3600);
    scene.client().post(&connect, &json!({"timeout": 7200})).await.is(200);
    about(left(&scene, &record), 7200);
    scene.client().post(&format!("/v2{connect}"), &json!({"timeout": 9000})).await.is(200);
    about(left(&scene, &record), 9000);
}

#[tokio::test]
async fn the_id_of_old_clients_is_understood() {
    let scene = Scene::new().await;
    let id = scene.sandbox(0, &[]).spec.id;
    scene.client().get(&format!("/sandboxes/{id}-6532622b")).await.is(200);
    scene.client().delete(&format!("/sandboxes/{id}-6532622b")).await.is(204);
    scene.client().delete(&format!("/sandboxes/{id}")).await.is_error(404, "doesn't exist");
}

#[tokio::test]
async fn no_life_beyond_the_teams_hours_from_the_start() {
    let scene = Scene::new().await;
    let limits = TeamLimits { max_sandboxes: 9, max_hours: 2 };
    scene.catalog.set_team_limits(&scene.team.id, limits).await.unwrap();
    let record = scene.sandbox(3600, &[]);
    let path = format!("/sandboxes/{}/timeout", record.spec.id);
    scene.client().post(&path, &json!({"timeout": 7200})).await.is(204);
    about(left(&scene, &record), 3600);
    scene.client().post(&path, &json!({"timeout": 7201})).await.is_error(400, "from 0 to 7200");
}

#[tokio::test]
async fn the_details_have_every_field_that_clients_need() {
    let scene = Scene::new().await;
    let record = scene.sandbox(5, &[("user", "ä")]);
    let body = scene.client().get(&format!("/sandboxes/{}", record.spec.id)).await.is(200);
    assert_eq!(body["templateID"], scene.base.id.as_str());
    assert_eq!(body["sandboxID"], record.spec.id.as_str());
    assert_eq!(body["clientID"], "6532622b");
    assert_eq!(body["alias"], "base");
    assert_eq!(body["state"], "running");
    assert_eq!(body["cpuCount"], 2);
    assert_eq!(body["memoryMB"], 512);
    assert_eq!(body["diskSizeMB"], 4096);
    assert_eq!(body["envdVersion"], "0.6.13");
    assert_eq!(body["metadata"], json!({"user": "ä"}));
    assert_eq!(body["allowInternetAccess"], false);
    assert_eq!(body["network"], json!({"allowPublicTraffic": false}));
    assert_eq!(body["lifecycle"], json!({"autoResume": false, "onTimeout": "kill"}));
    assert_eq!(body["volumeMounts"], json!([]));
    assert_eq!(body["domain"], json!(null));
    let time = |name: &str| {
        let text = body[name].as_str().unwrap();
        assert!(text.ends_with('Z') && text.contains('.'), "{text} has no fraction of a second");
        text.parse::<Timestamp>().unwrap()
    };
    assert_eq!(time("startedAt"), record.spec.started_at);
    assert_eq!(time("endAt").duration_since(time("startedAt")), SignedDuration::from_hours(1));
}
