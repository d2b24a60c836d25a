//! Pausing, and every way back by the REST surface.

use std::sync::atomic::Ordering;
use std::time::Duration;

use api::ApiConfig;
use catalog::TeamLimits;
use jiff::Timestamp;
use model::{MetricSample, OnTimeout, SandboxState};
use serde_json::{Value, json};

use crate::client::{exchange, serve};
use crate::fleet::{NO_MEMORY, NO_RESUME, WHY_NOT};
use crate::lifetime::{about, left};
use crate::scene::{Scene, until};

async fn limit(scene: &Scene, max_sandboxes: u32, max_hours: u32) {
    let limits = TeamLimits { max_sandboxes, max_hours };
    scene.catalog.set_team_limits(&scene.team.id, limits).await.unwrap();
}

#[tokio::test]
async fn a_sandbox_is_paused_once() {
    let scene = Scene::new().await;
    let id = scene.sandbox(10, &[]).spec.id;
    let path = format!("/sandboxes/{id}/pause");
    assert_eq!(scene.client().post(&path, &json!({})).await.is(204), Value::Null);
    assert_eq!(scene.now(&id).state, SandboxState::Paused);
    scene.client().post(&path, &json!({})).await.is_error(409, "is paused already");
    scene.client().get(&format!("/sandboxes/{id}-6532622b")).await.is(200);
    scene.client().post("/sandboxes/i00000000000000000000/pause", &json!({})).await.is_error(404, "exist");
}

#[tokio::test]
async fn every_body_of_a_pause_that_clients_send() {
    let scene = Scene::new().await;
    for body in ["", "{}", r#"{"memory":true}"#, r#"{"memory":null,"requireHealthyGuest":true}"#] {
        let id = scene.sandbox(10, &[]).spec.id;
        scene.client().post_text(&format!("/sandboxes/{id}/pause"), body).await.is(204);
    }
    assert!(scene.fleet.disks.lock().unwrap().is_empty());
    let disk = scene.sandbox(10, &[]).spec.id;
    scene.client().post_text(&format!("/sandboxes/{disk}/pause"), r#"{"memory":false}"#).await.is(204);
    assert!(scene.fleet.disks.lock().unwrap().contains(&disk));
    let id = scene.sandbox(10, &[]).spec.id;
    let path = format!("/sandboxes/{id}/pause");
    for (body, text) in [(r#"{"memory":"no"}"#, "memory"), ("[]", "request body")] {
        scene.client().post_text(&path, body).await.is_error(400, text);
    }
    assert_eq!(scene.now(&id).state, SandboxState::Running);
}

#[tokio::test]
async fn a_pause_and_a_resume_without_a_body_through_a_real_socket() {
    let scene = Scene::new().await;
    let address = serve(scene.router.clone()).await;
    let key = scene.key.expose();
    for framing in ["Content-Length: 0\r\n\r\n", "\r\n", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let id = scene.sandbox(10, &[]).spec.id;
        for (route, status) in [("pause", "204"), ("resume", "201")] {
            let request = format!(
                "POST /sandboxes/{id}/{route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\n\
                 Content-Type: application/json\r\n{framing}"
            );
            let answer = exchange(address, request.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{framing:?}: {answer}");
        }
    }
}

#[tokio::test]
async fn connecting_resumes_and_says_so() {
    let scene = Scene::new().await;
    for path in ["/sandboxes", "/v2/sandboxes"] {
        let record = scene.paused(100, &[]);
        let id = &record.spec.id;
        let connect = format!("{path}/{id}/connect");
        let body = scene.client().post(&connect, &json!({"timeout": 60})).await.is(201);
        assert_eq!(body["sandboxID"], id.as_str());
        assert_eq!(body["envdAccessToken"], record.spec.envd_token.as_ref().unwrap().expose());
        assert_eq!(scene.now(id).state, SandboxState::Running);
        about(left(&scene, &record), 60);
        let again = scene.client().post(&connect, &json!({"timeout": 90})).await.is(200);
        assert_eq!(again, body);
        about(left(&scene, &record), 90);
        scene.client().post(&connect, &json!({"timeout": 10})).await.is(200);
        about(left(&scene, &record), 90);
    }
    assert_eq!(scene.fleet.resumed.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_defaults_of_every_way_back() {
    let scene = Scene::new().await;
    for (path, body, seconds) in [
        ("/v2/sandboxes/{id}/connect", "", 300),
        ("/v2/sandboxes/{id}/connect", r#"{"memory":true}"#, 300),
        ("/sandboxes/{id}/resume", "", 15),
        ("/sandboxes/{id}/resume", r#"{"timeout":77}"#, 77),
    ] {
        let record = scene.paused(100, &[]);
        let path = path.replace("{id}", record.spec.id.as_str());
        scene.client().post_text(&path, body).await.is(201);
        about(left(&scene, &record), seconds);
    }
}

#[tokio::test]
async fn what_a_way_back_cannot_do_is_refused_and_changes_nothing() {
    let scene = Scene::new().await;
    let id = scene.paused(100, &[]).spec.id;
    for (path, body, text) in [
        ("/v2/sandboxes/{id}/connect", json!({"memory": "no"}), "memory"),
        ("/sandboxes/{id}/connect", json!({"timeout": 5, "memory": 0}), "memory"),
        ("/sandboxes/{id}/resume", json!({"memory": []}), "memory"),
        ("/sandboxes/{id}/connect", json!({"timeout": 0}), "at least 1 second to resume"),
        ("/v2/sandboxes/{id}/connect", json!({"timeout": 0}), "at least 1 second to resume"),
        ("/sandboxes/{id}/resume", json!({"timeout": 0}), "at least 1 second to resume"),
        ("/sandboxes/{id}/resume", json!({"timeout": -1}), "from 0 to 86400"),
        ("/sandboxes/{id}/resume", json!({"timeout": 86_401}), "from 0 to 86400"),
        ("/sandboxes/{id}/resume", json!({"autoPause": "x"}), "autoPause"),
        ("/sandboxes/{id}/connect", json!({}), "timeout"),
    ] {
        let path = path.replace("{id}", id.as_str());
        scene.client().post(&path, &body).await.is_error(400, text);
        assert_eq!(scene.now(&id).state, SandboxState::Paused, "{path} {body}");
    }
}

#[tokio::test]
async fn a_reboot_is_told_by_a_header_and_the_body_stays_the_same() {
    let scene = Scene::new().await;
    for (path, body, damaged, expected) in [
        ("/v2/sandboxes/{id}/connect", r#"{"memory":false}"#, false, Some("a reboot was asked for")),
        ("/sandboxes/{id}/connect", r#"{"timeout":9,"memory":false}"#, true, Some("a reboot was asked for")),
        ("/sandboxes/{id}/resume", r#"{"memory":false}"#, false, Some("a reboot was asked for")),
        ("/v2/sandboxes/{id}/connect", "{}", true, Some(WHY_NOT)),
        ("/sandboxes/{id}/connect", r#"{"timeout":9,"memory":true}"#, true, Some(WHY_NOT)),
        ("/sandboxes/{id}/resume", "", true, Some(WHY_NOT)),
        ("/v2/sandboxes/{id}/connect", "{}", false, None),
        ("/sandboxes/{id}/resume", r#"{"memory":null}"#, false, None),
    ] {
        let metadata: &[_] = if damaged { &[("test", NO_MEMORY)] } else { &[] };
        let id = scene.paused(100, metadata).spec.id;
        let answer = scene.client().post_text(&path.replace("{id}", id.as_str()), body).await;
        assert_eq!(answer.header("x-coldframe-rebooted"), expected, "{path} {body}");
        let connected = scene.client().post(&format!("/v2/sandboxes/{id}/connect"), &json!({})).await;
        assert_eq!(connected.header("x-coldframe-rebooted"), None, "nothing was started for this one");
        assert_eq!(connected.is(200), answer.is(201), "{path} {body}");
    }
}

#[tokio::test]
async fn the_older_way_back_refuses_what_runs_and_may_change_what_the_end_is() {
    let scene = Scene::new().await;
    let id = scene.paused(100, &[]).spec.id;
    let path = format!("/sandboxes/{id}/resume");
    let body = scene.client().post(&path, &json!({"timeout": 60, "autoPause": true})).await.is(201);
    assert_eq!(body["sandboxID"], id.as_str());
    let detail = scene.client().get(&format!("/sandboxes/{id}")).await.is(200);
    assert_eq!((&detail["state"], &detail["lifecycle"]["onTimeout"]), (&json!("running"), &json!("pause")));
    scene.client().post(&path, &json!({"timeout": 60})).await.is_error(409, "is running already");
    scene.fleet.put_to_sleep(&id);
    scene.client().post(&path, &json!({"autoPause": null})).await.is(201);
    assert_eq!(scene.now(&id).spec.on_timeout, OnTimeout::Pause);
}

#[tokio::test]
async fn a_paused_sandbox_has_no_end_to_move() {
    let scene = Scene::new().await;
    let id = scene.paused(100, &[]).spec.id;
    for stale in [false, true] {
        if stale {
            scene.fleet.shown_running.lock().unwrap().insert(id.clone());
        }
        for (route, body) in [
            ("timeout", json!({"timeout": 60})),
            ("timeout", json!({"timeout": 0})),
            ("refreshes", json!({})),
        ] {
            let answer = scene.client().post(&format!("/sandboxes/{id}/{route}"), &body).await;
            answer.is_error(409, if stale { "does not run" } else { "is paused and has no end time" });
        }
    }
    assert_eq!(scene.fleet.resumed.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_paused_sandbox_in_details_and_lists() {
    let scene = Scene::new().await;
    let running = scene.sandbox(5, &[("a", "b")]).spec.id;
    let paused = scene.paused(100, &[("a", "b")]);
    let id = &paused.spec.id;
    let detail = scene.client().get(&format!("/sandboxes/{id}")).await.is(200);
    assert_eq!(detail["state"], "paused");
    let end: Timestamp = detail["endAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(end.as_microsecond(), paused.end_at.as_microsecond(), "it says when it was paused");
    assert_eq!(detail["lifecycle"], json!({"autoResume": false, "onTimeout": "kill"}));

    let ask = async |query: &str| {
        let answer = scene.client().get(&format!("/v2/sandboxes?{query}")).await;
        let total = answer.header("x-total-running").map(str::to_owned);
        let body = answer.is(200);
        let listed: Vec<_> = body
            .as_array()
            .unwrap()
            .iter()
            .map(|line| (line["sandboxID"].as_str().unwrap().to_owned(), line["state"].clone()))
            .collect();
        (listed, total)
    };
    let a = (running.to_string(), json!("running"));
    let b = (id.to_string(), json!("paused"));
    let one = Some("1".to_owned());
    for query in
        ["", "state=", "state=running,paused", "state=paused&state=running", "state=running%2Cpaused"]
    {
        assert_eq!(ask(query).await, (vec![a.clone(), b.clone()], one.clone()), "{query}");
    }
    assert_eq!(ask("state=running").await, (vec![a.clone()], one.clone()));
    assert_eq!(ask("state=paused").await, (vec![b.clone()], None));
    // Paused ones take their places on pages, and are not in the total.
    assert_eq!(ask("limit=1&order=asc").await, (vec![b.clone()], one.clone()));
    assert_eq!(ask("metadata=a%3Dc").await, (vec![], Some("0".to_owned())));

    let first = scene.client().get("/sandboxes").await.is(200);
    assert_eq!(first.as_array().unwrap().len(), 1, "the first version lists running ones");
    assert_eq!(first[0]["sandboxID"], running.as_str());
}

#[tokio::test]
async fn a_paused_sandbox_is_killed_like_another() {
    let scene = Scene::new().await;
    let path = format!("/sandboxes/{}", scene.paused(100, &[]).spec.id);
    scene.client().delete(&path).await.is(204);
    scene.client().delete(&path).await.is_error(404, "doesn't exist");
    scene.client().post(&format!("{path}/connect"), &json!({"timeout": 9})).await.is_error(404, "exist");
}

#[tokio::test]
async fn of_a_paused_sandbox_there_are_no_samples_and_no_lines() {
    let scene = Scene::new().await;
    let (paused, running) = (scene.paused(100, &[]).spec.id, scene.sandbox(1, &[]).spec.id);
    scene.fleet.samples.lock().unwrap().push(MetricSample {
        timestamp: Timestamp::now(),
        cpu_count: 1,
        cpu_used_pct: 1.0,
        mem_used: 1,
        mem_total: 1,
        mem_cache: 1,
        disk_used: 1,
        disk_total: 1,
    });
    let client = scene.client();
    assert_eq!(client.get(&format!("/sandboxes/{paused}/metrics")).await.is(200), json!([]));
    assert_eq!(
        client.get(&format!("/sandboxes/{paused}/logs")).await.is(200),
        json!({"logs": [], "logEntries": []})
    );
    assert_eq!(client.get(&format!("/v2/sandboxes/{paused}/logs")).await.is(200), json!({"logs": []}));
    let many = client.get(&format!("/sandboxes/metrics?sandbox_ids={paused},{running}")).await.is(200);
    assert_eq!(many["sandboxes"].as_object().unwrap().keys().collect::<Vec<_>>(), [running.as_str()]);
}

#[tokio::test]
async fn auto_pause_and_auto_resume_reach_the_fleet_and_come_back() {
    let scene = Scene::new().await;
    for (asked, lifecycle) in [
        (json!({"autoPause": true}), json!({"autoResume": false, "onTimeout": "pause"})),
        (
            json!({"autoPause": true, "autoPauseMemory": true, "autoResume": {"enabled": true}}),
            json!({"autoResume": true, "onTimeout": "pause"}),
        ),
        (json!({"autoResume": {"enabled": true}}), json!({"autoResume": true, "onTimeout": "kill"})),
    ] {
        for path in ["/sandboxes", "/v2/sandboxes"] {
            let mut body = asked.clone();
            body["templateID"] = "base".into();
            body["timeout"] = 77.into();
            let id = scene.client().post(path, &body).await.is(201)["sandboxID"].clone();
            let detail = scene.client().get(&format!("/sandboxes/{}", id.as_str().unwrap())).await.is(200);
            assert_eq!(detail["lifecycle"], lifecycle, "{asked}");
        }
    }
    assert!(scene.fleet.all().iter().all(|record| record.spec.timeout_secs == 77));
}

#[tokio::test]
async fn what_an_end_time_keeps_and_what_traffic_may_do_reach_the_fleet() {
    let scene = Scene::new().await;
    for (asked, memory, reboots) in [
        (json!({"autoPause": true}), true, false),
        (json!({"autoPause": true, "autoPauseMemory": false}), false, false),
        (
            json!({"autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": false}}),
            false,
            false,
        ),
        (json!({"autoPause": true, "autoResume": {"enabled": true, "reboot": true}}), true, true),
        (
            json!({"autoPause": true, "autoPauseMemory": false, "autoResume": {"enabled": true, "reboot": true}}),
            false,
            true,
        ),
        (json!({"autoPause": true, "autoResume": {"enabled": false, "reboot": true}}), true, false),
    ] {
        let mut body = asked.clone();
        body["templateID"] = "base".into();
        let id = scene.client().post("/v2/sandboxes", &body).await.is(201)["sandboxID"].clone();
        let spec = scene.now(&id.as_str().unwrap().parse().unwrap()).spec;
        assert_eq!((spec.auto_pause_memory, spec.auto_resume_reboots), (memory, reboots), "{asked}");
    }
}

#[tokio::test]
async fn a_resumed_sandbox_has_its_longest_life_before_it() {
    let scene = Scene::new().await;
    limit(&scene, 9, 2).await;
    // It was made longer ago than a sandbox may live.
    let record = scene.paused(3 * 3600, &[]);
    let path = format!("/sandboxes/{}", record.spec.id);
    scene.client().post(&format!("{path}/connect"), &json!({"timeout": 7201})).await.is_error(400, "7200");
    scene.client().post(&format!("{path}/connect"), &json!({"timeout": 60})).await.is(201);
    scene.client().post(&format!("{path}/timeout"), &json!({"timeout": 7200})).await.is(204);
    about(left(&scene, &record), 7200);
}

#[tokio::test]
async fn a_sandbox_that_is_paused_just_when_a_client_connects_is_resumed_with_all_its_time() {
    let scene = Scene::new().await;
    limit(&scene, 9, 1).await;
    // Its longest life is over, which is why it is paused.
    let record = scene.paused(3600, &[]);
    scene.fleet.shown_running.lock().unwrap().insert(record.spec.id.clone());
    let path = format!("/v2/sandboxes/{}/connect", record.spec.id);
    scene.client().post(&path, &json!({"timeout": 600})).await.is(201);
    about(left(&scene, &record), 600);
}

#[tokio::test]
async fn memory_matters_only_to_what_is_paused() {
    let scene = Scene::new().await;
    let id = scene.sandbox(1, &[]).spec.id;
    let path = format!("/v2/sandboxes/{id}/connect");
    scene.client().post(&path, &json!({"memory": false})).await.is(200);
}

#[tokio::test]
async fn paused_sandboxes_leave_their_places_and_need_one_to_come_back() {
    let scene = Scene::new().await;
    limit(&scene, 2, 1).await;
    let (a, b) = (scene.sandbox(1, &[]).spec.id, scene.paused(1, &[]).spec.id);
    let create = json!({"templateID": "base"});
    let c = scene.client().post("/v2/sandboxes", &create).await.is(201)["sandboxID"].clone();
    let connect = format!("/v2/sandboxes/{b}/connect");
    for _ in 0..2 {
        scene.client().post("/v2/sandboxes", &create).await.is_error(429, "limit of 2 sandboxes");
        scene.client().post(&connect, &json!({})).await.is_error(429, "limit of 2 sandboxes");
        scene.client().post(&format!("/sandboxes/{b}/resume"), &json!({})).await.is_error(429, "limit of 2");
    }
    // Connecting to one that runs needs no place.
    scene.client().post(&format!("/v2/sandboxes/{a}/connect"), &json!({})).await.is(200);
    scene.client().post(&format!("/sandboxes/{}/pause", c.as_str().unwrap()), &json!({})).await.is(204);
    scene.client().post(&connect, &json!({})).await.is(201);
    scene.client().post("/v2/sandboxes", &create).await.is_error(429, "limit of 2 sandboxes");
}

#[tokio::test]
async fn resumes_under_way_count_each_sandbox_once() {
    let scene = Scene::new().await;
    limit(&scene, 2, 1).await;
    let (a, b, c) =
        (scene.paused(3, &[]).spec.id, scene.paused(2, &[]).spec.id, scene.paused(1, &[]).spec.id);
    scene.fleet.open.send_replace(false);
    let connects: Vec<_> = [&a, &b, &a, &a, &b]
        .map(|id| {
            let (client, path) = (scene.client(), format!("/v2/sandboxes/{id}/connect"));
            tokio::spawn(async move { client.post(&path, &json!({})).await })
        })
        .into_iter()
        .collect();
    until("five wait", || scene.fleet.waiting.load(Ordering::SeqCst) == 5).await;
    let third = format!("/v2/sandboxes/{c}/connect");
    scene.client().post(&third, &json!({})).await.is_error(429, "limit of 2 sandboxes");
    let create = json!({"templateID": "base"});
    scene.client().post("/v2/sandboxes", &create).await.is_error(429, "limit of 2 sandboxes");
    scene.fleet.open.send_replace(true);
    let mut resumed = 0;
    for connect in connects {
        let answer = connect.await.unwrap();
        assert!([200, 201].contains(&answer.status.as_u16()), "{answer:?}");
        resumed += usize::from(answer.status == 201);
    }
    assert_eq!((resumed, scene.fleet.resumed.load(Ordering::SeqCst)), (2, 2));
    scene.client().post(&third, &json!({})).await.is_error(429, "limit of 2 sandboxes");
    scene.client().delete(&format!("/sandboxes/{a}")).await.is(204);
    scene.client().post(&third, &json!({})).await.is(201);
}

#[tokio::test]
async fn a_resume_that_fails_is_told_and_gives_its_place_back() {
    let scene = Scene::new().await;
    limit(&scene, 1, 1).await;
    let id = scene.paused(1, &[("test", NO_RESUME)]).spec.id;
    let answer = scene.client().post(&format!("/v2/sandboxes/{id}/connect"), &json!({})).await;
    answer.is_error(500, "disk is damaged");
    assert_eq!(scene.now(&id).state, SandboxState::Paused);
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
}

#[tokio::test]
async fn a_pause_and_a_resume_outlive_their_clients() {
    let config = ApiConfig { create_deadline: Duration::from_millis(100), ..ApiConfig::default() };
    let scene = Scene::with(config).await;
    let id = scene.sandbox(1, &[]).spec.id;
    for (route, state) in
        [("pause", SandboxState::Paused), ("resume", SandboxState::Running), ("pause", SandboxState::Paused)]
    {
        scene.fleet.open.send_replace(false);
        let answer = scene.client().post(&format!("/sandboxes/{id}/{route}"), &json!({})).await;
        answer.is_error(504, "took longer than");
        scene.fleet.open.send_replace(true);
        until("it is carried through", || scene.now(&id).state == state).await;
    }
}

#[tokio::test]
async fn a_repeated_create_finds_its_sandbox_paused() {
    let scene = Scene::new().await;
    let create = async |body: Value| {
        let request =
            scene.client().request(http::Method::POST, "/v2/sandboxes").header("Idempotency-Key", "key-1");
        scene.client().send(request.body(body.to_string().into()).unwrap()).await
    };
    let body = json!({"templateID": "base", "autoPause": true});
    let first = create(body.clone()).await.is(201);
    let id = scene.fleet.all()[0].spec.id.clone();
    scene.client().post(&format!("/sandboxes/{id}/pause"), &json!({})).await.is(204);
    assert_eq!(create(body).await.is(201), first);
    let other = json!({"templateID": "base", "autoPause": true, "autoResume": {"enabled": true}});
    create(other).await.is_error(422, "whose sandbox is still there");
    create(json!({"templateID": "base"})).await.is_error(422, "whose sandbox is still there");
    assert_eq!(scene.fleet.all().len(), 1);
}
