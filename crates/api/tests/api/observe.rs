//! Metrics, logs, templates, health.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model::{LogEntry, LogLevel, LogSource, MetricSample};
use serde_json::{Value, json};

use crate::scene::{Scene, template};

fn sample(timestamp: Timestamp) -> MetricSample {
    MetricSample {
        timestamp,
        cpu_count: 2,
        cpu_used_pct: 12.5,
        mem_used: 1 << 20,
        mem_total: 512 << 20,
        mem_cache: 3,
        disk_used: 4,
        disk_total: 5 << 30,
    }
}

#[tokio::test]
async fn samples_of_a_range() {
    let scene = Scene::new().await;
    let id = scene.sandbox(60, &[]).spec.id;
    let base = Timestamp::from_second(1_800_000_000).unwrap();
    for n in 0..4 {
        scene.fleet.samples.lock().unwrap().push(sample(base + SignedDuration::from_secs(5 * n)));
    }
    let path = format!("/sandboxes/{id}/metrics");
    let all = scene.client().get(&path).await.is(200);
    assert_eq!(all.as_array().unwrap().len(), 4);
    assert_eq!(
        all[0],
        json!({
            "timestamp": "2027-01-15T08:00:00.000000Z", "timestampUnix": 1_800_000_000, "cpuCount": 2,
            "cpuUsedPct": 12.5, "memUsed": 1 << 20, "memTotal": 512 << 20, "memCache": 3, "diskUsed": 4,
            "diskTotal": 5_u64 << 30,
        })
    );
    let some = scene.client().get(&format!("{path}?start=1800000005&end=1800000010")).await.is(200);
    assert_eq!(some.as_array().unwrap().len(), 2);
    assert_eq!(scene.client().get(&format!("{path}?start=1&end=2")).await.is(200), json!([]));
    for bad in ["start=x", "end=1.5", "start=99999999999999999", "start=5&end=4"] {
        scene.client().get(&format!("{path}?{bad}")).await.is_error(400, "");
    }
}

#[tokio::test]
async fn a_use_that_is_not_a_number_is_shown_as_none() {
    let scene = Scene::new().await;
    let id = scene.sandbox(60, &[]).spec.id;
    let broken = MetricSample { cpu_used_pct: f32::NAN, ..sample(Timestamp::now()) };
    scene.fleet.samples.lock().unwrap().push(broken);
    let body = scene.client().get(&format!("/sandboxes/{id}/metrics")).await.is(200);
    assert_eq!(body[0]["cpuUsedPct"], 0.0);
}

#[tokio::test]
async fn the_newest_sample_of_several() {
    let scene = Scene::new().await;
    let (a, b) = (scene.sandbox(60, &[]).spec.id, scene.sandbox(50, &[]).spec.id);
    for seconds in [10, 5] {
        let time = Timestamp::now() - SignedDuration::from_secs(seconds);
        scene.fleet.samples.lock().unwrap().push(MetricSample { mem_used: 5, ..sample(time) });
    }
    let gone = "i00000000000000000000";
    let body = scene.client().get(&format!("/sandboxes/metrics?sandbox_ids={a},{b},{gone}")).await.is(200);
    let sandboxes = body["sandboxes"].as_object().unwrap();
    assert_eq!(sandboxes.len(), 2);
    assert_eq!(sandboxes[a.as_str()]["memUsed"], 5);
    let (_, stranger) = scene.stranger().await;
    let theirs = stranger.get(&format!("/sandboxes/metrics?sandbox_ids={a}")).await.is(200);
    assert_eq!(theirs, json!({"sandboxes": {}}));
    scene.client().get("/sandboxes/metrics").await.is_error(400, "sandbox_ids is missing");
    let many: Vec<_> = (0..101).map(|n| format!("i{n}")).collect();
    let many = scene.client().get(&format!("/sandboxes/metrics?sandbox_ids={}", many.join(","))).await;
    many.is_error(400, "at most 100");
}

fn line(message: &str) -> LogEntry {
    LogEntry {
        timestamp: "2026-01-02T03:04:05.678Z".parse().unwrap(),
        level: LogLevel::Warn,
        source: LogSource::Process,
        message: message.into(),
        fields: BTreeMap::from([("pid".into(), "12".into()), ("level".into(), "not this one".into())]),
    }
}

#[tokio::test]
async fn lines_the_way_the_cli_reads_them() {
    let scene = Scene::new().await;
    let id = scene.sandbox(60, &[]).spec.id;
    scene.fleet.lines.lock().unwrap().push(line("say \"hi\"\n\u{1b}[31mä"));
    let body = scene.client().get(&format!("/sandboxes/{id}/logs?start=1767323045678")).await.is(200);
    let raw = &body["logs"][0];
    assert_eq!(raw["timestamp"], "2026-01-02T03:04:05.678000Z");
    let parsed: Value = serde_json::from_str(raw["line"].as_str().unwrap()).unwrap();
    let expected =
        json!({"level": "warn", "logger": "process", "message": "say \"hi\"\n\u{1b}[31mä", "pid": "12"});
    assert_eq!(parsed, expected);
    assert_eq!(body["logEntries"][0]["message"], parsed["message"]);
    let query = scene.fleet.last_query.lock().unwrap().clone().unwrap();
    assert_eq!(query.start.unwrap().as_millisecond(), 1_767_323_045_678);
    assert_eq!((query.limit, query.backward), (Some(1000), false));
}

#[tokio::test]
async fn lines_with_their_parts_apart() {
    let scene = Scene::new().await;
    let id = scene.sandbox(60, &[]).spec.id;
    scene.fleet.lines.lock().unwrap().push(line("hello"));
    let path = format!("/v2/sandboxes/{id}/logs");
    let query = "cursor=1767323045678&limit=5&direction=backward&level=warn&search=he%20llo";
    let body = scene.client().get(&format!("{path}?{query}")).await.is(200);
    let fields = json!({"logger": "process", "pid": "12", "level": "not this one"});
    let expected = json!({
        "timestamp": "2026-01-02T03:04:05.678000Z", "message": "hello", "level": "warn", "fields": fields,
    });
    assert_eq!(body, json!({"logs": [expected]}));
    let query = scene.fleet.last_query.lock().unwrap().clone().unwrap();
    assert_eq!(query.end.unwrap().as_millisecond(), 1_767_323_045_678);
    assert_eq!((query.start, query.limit, query.backward), (None, Some(5), true));
    assert_eq!((query.level, query.search.as_deref()), (Some(LogLevel::Warn), Some("he llo")));
    let long = format!("search={}", "x".repeat(257));
    for (bad, text) in [
        ("cursor=x", "cursor"),
        ("limit=1001", "limit"),
        ("direction=sideways", "direction"),
        ("level=loud", "level"),
        (long.as_str(), "search"),
    ] {
        scene.client().get(&format!("{path}?{bad}")).await.is_error(400, text);
    }
}

#[tokio::test]
async fn templates_as_the_cli_lists_them() {
    let scene = Scene::new().await;
    let rose = template(Some(&scene.team), "rose");
    scene.catalog.put_template(&rose).await.unwrap();
    let body = scene.client().get("/templates?teamID=whatever").await.is(200);
    let listed = body.as_array().unwrap();
    assert_eq!(listed.len(), 2);
    let own = listed[0].as_object().unwrap();
    assert_eq!(own["templateID"], rose.id.as_str());
    assert_eq!(own["names"], json!(["garden/rose"]));
    assert_eq!(own["aliases"], json!(["rose"]));
    assert_eq!((&own["public"], &own["buildStatus"]), (&json!(false), &json!("ready")));
    assert_eq!(listed[1]["names"], json!(["base"]));
    for field in [
        "buildID",
        "cpuCount",
        "memoryMB",
        "diskSizeMB",
        "createdAt",
        "updatedAt",
        "createdBy",
        "lastSpawnedAt",
        "spawnCount",
        "buildCount",
        "envdVersion",
    ] {
        assert!(own.contains_key(field), "{field}");
    }
}

#[tokio::test]
async fn whether_an_alias_is_there() {
    let scene = Scene::new().await;
    let rose = template(Some(&scene.team), "rose");
    scene.catalog.put_template(&rose).await.unwrap();
    let (_, stranger) = scene.stranger().await;
    let expected = json!({"templateID": rose.id.as_str(), "public": false});
    for name in ["rose", "garden%2Frose", "garden%2Frose%3Adefault", rose.id.as_str()] {
        assert_eq!(
            scene.client().get(&format!("/templates/aliases/{name}")).await.is(200),
            expected,
            "{name}"
        );
    }
    let base = json!({"templateID": scene.base.id.as_str(), "public": true});
    assert_eq!(stranger.get("/templates/aliases/base").await.is(200), base);
    stranger.get("/templates/aliases/rose").await.is_error(404, "template 'rose' not found");
    stranger.get("/templates/aliases/garden%2Frose").await.is_error(403, "another team");
    stranger.get("/templates/aliases/garden/rose").await.is_error(404, "no such route");
    stranger.get("/templates/aliases/a%2Fb%2Fc").await.is_error(400, "is not a template name");
}

#[tokio::test]
async fn health_needs_no_key() {
    let scene = Scene::new().await;
    let request = http::Request::get("/health").body(axum::body::Body::empty()).unwrap();
    assert_eq!(scene.client().send(request).await.is(200), json!({"status": "ok"}));
}
