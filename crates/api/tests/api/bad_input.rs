//! Every kind of nonsense gets a clear answer and changes nothing.

use api::ApiConfig;
use axum::body::Body;
use http::{Method, Request};
use serde_json::{Value, json};

use crate::client::{exchange, serve};
use crate::scene::{Scene, template};

const CREATES: [&str; 2] = ["/sandboxes", "/v2/sandboxes"];

/// A create that must be refused, by both versions, without anything having been made.
async fn refused(scene: &Scene, body: &Value, status: u16, text: &str) {
    for path in CREATES {
        scene.client().post(path, body).await.is_error(status, text);
    }
    assert!(scene.fleet.all().is_empty(), "{body} made a sandbox");
}

/// `{"templateID": "base"}` and these fields.
fn with(fields: &Value) -> Value {
    let mut body = json!({"templateID": "base"});
    let fields = fields.as_object().unwrap().clone();
    body.as_object_mut().unwrap().extend(fields);
    body
}

#[tokio::test]
async fn no_key_or_a_wrong_one() {
    let scene = Scene::new().await;
    let paths = [
        (Method::POST, "/sandboxes"),
        (Method::POST, "/v2/sandboxes"),
        (Method::GET, "/sandboxes"),
        (Method::GET, "/v2/sandboxes"),
        (Method::GET, "/sandboxes/metrics?sandbox_ids=i1"),
        (Method::GET, "/sandboxes/i1"),
        (Method::DELETE, "/sandboxes/i1"),
        (Method::POST, "/sandboxes/i1/timeout"),
        (Method::POST, "/sandboxes/i1/refreshes"),
        (Method::POST, "/sandboxes/i1/connect"),
        (Method::POST, "/v2/sandboxes/i1/connect"),
        (Method::POST, "/sandboxes/i1/pause"),
        (Method::POST, "/sandboxes/i1/resume"),
        (Method::POST, "/sandboxes/i1/snapshots"),
        (Method::POST, "/sandboxes/i1/fork"),
        (Method::GET, "/snapshots"),
        (Method::DELETE, "/templates/base"),
        (Method::GET, "/sandboxes/i1/metrics"),
        (Method::GET, "/sandboxes/i1/logs"),
        (Method::GET, "/v2/sandboxes/i1/logs"),
        (Method::GET, "/templates"),
        (Method::GET, "/templates/aliases/base"),
    ];
    let unknown = format!("e2b_{}", "0".repeat(40));
    let keys: [Option<&[u8]>; 5] =
        [None, Some(b""), Some(b"e2b_x"), Some(unknown.as_bytes()), Some(b"\xff\xfe")];
    for (method, path) in paths {
        for key in keys {
            let mut request = Request::builder().method(&method).uri(path);
            if let Some(key) = key {
                request = request.header("X-API-Key", key);
            }
            let answer = scene.client().send(request.body(Body::empty()).unwrap()).await;
            let text = if key.is_none() { "X-API-Key" } else { "unknown API key" };
            answer.is_error(401, text);
        }
    }
}

#[tokio::test]
async fn a_deleted_key() {
    let scene = Scene::new().await;
    let (id, key) = scene.catalog.create_key(&scene.team.id, "short-lived").await.unwrap();
    let mut client = scene.client();
    client.key = key;
    client.get("/v2/sandboxes").await.is(200);
    scene.catalog.delete_key(&scene.team.id, &id).await.unwrap();
    client.get("/v2/sandboxes").await.is_error(401, "unknown API key");
}

#[tokio::test]
async fn malformed_json() {
    let scene = Scene::new().await;
    let deep = format!(r#"{{"templateID":"base","mcp":{}{}}}"#, "[".repeat(5000), "]".repeat(5000));
    let bodies: [&[u8]; 12] = [
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b"\"base\"",
        b"{\"templateID\":\"base\"} {}",
        b"{\"templateID\":\"base\",}",
        b"{\"templateID\":\"ba\xff\"}",
        b"{\"templateID\":\"\\ud800\"}",
        b"{\"templateID\":\"base\",\"templateID\":\"base\"}",
        b"\0",
        deep.as_bytes(),
    ];
    for path in CREATES {
        for body in bodies {
            scene.client().post_text(path, body.to_vec()).await.is_error(400, "request body");
        }
    }
    let id = scene.sandbox(1, &[]).spec.id;
    for route in ["timeout", "refreshes", "connect", "pause", "resume", "snapshots", "fork"] {
        let path = format!("/sandboxes/{id}/{route}");
        scene.client().post_text(&path, "{").await.is_error(400, "request body");
    }
    assert_eq!(scene.fleet.all().len(), 1);
}

#[tokio::test]
async fn fields_of_the_wrong_type_are_named() {
    let scene = Scene::new().await;
    for (field, value) in [
        ("timeout", json!("60")),
        ("timeout", json!(1.5)),
        ("timeout", json!(1e300)),
        ("templateID", json!(7)),
        ("templateID", json!(null)),
        ("metadata", json!({"a": 1})),
        ("metadata", json!([])),
        ("envVars", json!({"a": null})),
        ("network", json!("none")),
        ("autoPause", json!("no")),
        ("volumeMounts", json!({})),
    ] {
        refused(&scene, &with(&json!({field: value})), 400, field).await;
    }
    for path in CREATES {
        scene.client().post(path, &json!({})).await.is_error(400, "templateID");
        scene.client().post_text(path, "").await.is_error(400, "templateID");
    }
}

#[tokio::test]
async fn a_body_that_is_not_json_by_its_own_words() {
    let scene = Scene::new().await;
    for content_type in
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x"]
    {
        let request =
            scene.client().request(Method::POST, "/v2/sandboxes").header("Content-Type", content_type);
        let answer =
            scene.client().send(request.body(Body::from("{\"templateID\":\"base\"}")).unwrap()).await;
        answer.is_error(415, "application/json");
    }
    for content_type in ["application/json; charset=utf-8", "APPLICATION/JSON", "application/vnd.x+json"] {
        let request =
            scene.client().request(Method::POST, "/v2/sandboxes").header("Content-Type", content_type);
        scene.client().send(request.body(Body::from("{\"templateID\":\"base\"}")).unwrap()).await.is(201);
    }
}

#[tokio::test]
async fn templates_that_are_not_there_or_not_yours() {
    let scene = Scene::new().await;
    refused(&scene, &json!({"templateID": "x"}), 404, "template 'x' not found").await;
    refused(&scene, &json!({"templateID": "base:v9"}), 404, "tag 'v9' of template 'base' not found").await;
    for malformed in ["a/b/c", "../base", "base:", "ba se", "b\u{e4}se", &"x".repeat(100_000)] {
        refused(&scene, &json!({"templateID": malformed}), 400, "is not a template name").await;
    }
    refused(&scene, &json!({"templateID": ""}), 400, "templateID is empty").await;
    let (other, _) = scene.stranger().await;
    let theirs = template(Some(&other), "edelweiss");
    scene.catalog.put_template(&theirs).await.unwrap();
    for name in [theirs.id.as_str(), "alpine/edelweiss"] {
        refused(&scene, &json!({"templateID": name}), 403, "belongs to another team").await;
    }
    refused(&scene, &json!({"templateID": "edelweiss"}), 404, "not found").await;
}

#[tokio::test]
async fn timeouts_out_of_range() {
    let scene = Scene::new().await;
    for seconds in [0, -1, i64::MIN] {
        refused(&scene, &with(&json!({"timeout": seconds})), 400, "timeout must be at least 1").await;
    }
    for seconds in [86_401, i64::from(i32::MAX), i64::MAX] {
        refused(&scene, &with(&json!({"timeout": seconds})), 400, "timeout must be from 0 to 86400").await;
    }
    let id = scene.sandbox(1, &[]).spec.id;
    for seconds in [-1, 86_401, i64::MAX] {
        for path in ["timeout", "connect"] {
            let answer =
                scene.client().post(&format!("/sandboxes/{id}/{path}"), &json!({"timeout": seconds})).await;
            answer.is_error(400, "timeout must be from 0 to 86400");
        }
        let answer =
            scene.client().post(&format!("/v2/sandboxes/{id}/connect"), &json!({"timeout": seconds})).await;
        answer.is_error(400, "timeout must be");
    }
    for path in ["timeout", "connect"] {
        scene.client().post(&format!("/sandboxes/{id}/{path}"), &json!({})).await.is_error(400, "timeout");
    }
    let path = format!("/sandboxes/{id}/refreshes");
    for seconds in [-1, 3601] {
        scene
            .client()
            .post(&path, &json!({"duration": seconds}))
            .await
            .is_error(400, "duration must be from 0 to 3600");
    }
}

#[tokio::test]
async fn metadata_that_is_too_much() {
    let scene = Scene::new().await;
    let many: Value =
        (0..257).map(|n| (n.to_string(), Value::from("x"))).collect::<serde_json::Map<_, _>>().into();
    refused(&scene, &with(&json!({"metadata": many})), 400, "257 entries").await;
    refused(&scene, &with(&json!({"metadata": {"k".repeat(257): "v"}})), 400, "metadata key has 257 bytes")
        .await;
    let large = "x".repeat(900 << 10);
    refused(&scene, &with(&json!({"metadata": {"k": large}})), 400, "metadata has 921601 bytes").await;
    let huge = "x".repeat(1 << 20);
    refused(&scene, &with(&json!({"metadata": {"k": huge}})), 413, "larger than 1048576 bytes").await;
    let fits = "x".repeat((64 << 10) - 1);
    scene.client().post("/v2/sandboxes", &with(&json!({"metadata": {"k": fits}}))).await.is(201);
}

#[tokio::test]
async fn environment_variables_that_no_process_could_have() {
    let scene = Scene::new().await;
    for name in ["", "A=B", "A\0B"] {
        refused(&scene, &with(&json!({"envVars": {name: "x"}})), 400, "envVars: a name").await;
    }
    refused(&scene, &with(&json!({"envVars": {"A": "x\0y"}})), 400, "'A' contains NUL").await;
    let long = "x".repeat(128 << 10);
    refused(&scene, &with(&json!({"envVars": {"A": long}})), 400, "'A' takes 131074 bytes").await;
    let three: Value =
        ["A", "B", "C"].map(|n| (n.to_owned(), Value::from("x".repeat(100 << 10)))).into_iter().collect();
    refused(&scene, &with(&json!({"envVars": three})), 400, "envVars take").await;
    let many: Value =
        (0..513).map(|n| (n.to_string(), Value::from("x"))).collect::<serde_json::Map<_, _>>().into();
    refused(&scene, &with(&json!({"envVars": many})), 400, "513 entries").await;
}

#[tokio::test]
async fn what_this_version_cannot_do_is_refused_by_name() {
    let scene = Scene::new().await;
    for (fields, name) in [
        (json!({"autoPauseMemory": false}), "autoPauseMemory: false needs autoPause: true"),
        (
            json!({"autoPauseMemory": false, "autoPause": false}),
            "autoPauseMemory: false needs autoPause: true",
        ),
        (
            json!({"autoPauseMemory": false, "autoPause": true, "autoResume": {"enabled": true}}),
            "autoPauseMemory: false excludes autoResume, unless autoResume.reboot is true",
        ),
        (json!({"autoResume": {}}), "autoResume"),
        (json!({"mcp": {"github": {}}}), "mcp"),
        (json!({"iam": {"tokens": {"a": {"audience": "b"}}}}), "iam"),
        (json!({"iam": "x"}), "iam"),
        (json!({"volumeMounts": [{"name": "v", "path": "/v"}]}), "volumeMounts"),
        (json!({"network": {"allowOut": ["1.1.1.1"]}}), "network.allowOut"),
        (json!({"network": {"denyOut": ["0.0.0.0/0"]}}), "network.denyOut"),
        (json!({"network": {"egressProxy": {"address": "x:1"}}}), "network.egressProxy"),
        (json!({"network": {"rules": {"a.com": []}}}), "network.rules"),
        (json!({"network": {"dnsServers": ["9.9.9.9"]}}), "network.dnsServers"),
        (json!({"network": {"httpsPorts": [443]}}), "network.httpsPorts"),
        (json!({"network": {"denyEverything": true}}), "network.denyEverything"),
        (json!({"network": {"maskRequestHost": "a\r\nX-Evil: 1"}}), "network.maskRequestHost"),
        (json!({"network": {"maskRequestHost": "x".repeat(301)}}), "network.maskRequestHost"),
    ] {
        refused(&scene, &with(&fields), 400, name).await;
    }
    let open = with(&json!({"network": {"allowPublicTraffic": false}}));
    scene.client().post("/sandboxes", &open).await.is_error(400, "needs secure: true");
}

#[tokio::test]
async fn sandboxes_that_are_not_there_or_not_yours() {
    let scene = Scene::new().await;
    let theirs = scene.sandbox(1, &[]).spec.id.to_string();
    let (_, stranger) = scene.stranger().await;
    for (asked, id) in [
        (theirs.as_str(), theirs.as_str()),
        ("i00000000000000000000", "i00000000000000000000"),
        ("i00000000000000000000-6532622b", "i00000000000000000000"),
        ("UPPER", "UPPER"),
        ("%2e%2e%2fetc", "../etc"),
        ("a%20b", "a b"),
        ("%0d%0aX", "X"),
    ] {
        let text = format!("Sandbox \"{id}\" doesn't exist or you don't have access to it");
        let one = format!("/sandboxes/{asked}");
        stranger.get(&one).await.is_error(404, &text);
        stranger.delete(&one).await.is_error(404, &text);
        for route in ["timeout", "connect", "pause", "resume", "snapshots", "fork"] {
            stranger.post(&format!("{one}/{route}"), &json!({"timeout": 9})).await.is_error(404, &text);
        }
        stranger.post(&format!("/v2{one}/connect"), &json!({})).await.is_error(404, &text);
        stranger.post(&format!("{one}/refreshes"), &json!({"duration": 9})).await.is_error(404, &text);
        for route in ["metrics", "logs"] {
            stranger.get(&format!("{one}/{route}")).await.is_error(404, &text);
        }
        stranger.get(&format!("/v2{one}/logs")).await.is_error(404, &text);
    }
    stranger.get("/sandboxes/%ff").await.is_error(400, "UTF-8");
    assert_eq!(scene.fleet.all().len(), 1);
    assert!(stranger.get("/v2/sandboxes").await.is(200).as_array().unwrap().is_empty());
}

#[tokio::test]
async fn routes_and_methods_that_are_not_there() {
    let scene = Scene::new().await;
    let client = scene.client();
    client.get("/nothing").await.is_error(404, "no such route: GET /nothing");
    client.get("/").await.is_error(404, "no such route");
    client.post("/sandboxes/i1/spoon", &json!({})).await.is_error(404, "no such route");
    client.get("/sandboxes/i1/fork").await.is_error(405, "GET is not a method");
    client.post("/snapshots", &json!({})).await.is_error(405, "POST is not a method");
    client.get("/templates/base").await.is_error(405, "GET is not a method");
    client.get("/sandboxes/i1/pause").await.is_error(405, "GET is not a method");
    client.get("/sandboxes/i1/..%2f..%2fetc").await.is_error(404, "no such route");
    client.delete("/sandboxes").await.is_error(405, "DELETE is not a method of /sandboxes");
    client.get("/sandboxes/i1/timeout").await.is_error(405, "GET is not a method");
    let put = client.request(Method::PUT, "/v2/sandboxes").body(Body::empty()).unwrap();
    let answer = client.send(put).await;
    answer.is_error(405, "PUT");
    let allowed = answer.header("allow").unwrap();
    assert!(allowed.contains("GET") && allowed.contains("POST"), "{allowed}");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_answered_even_while_it_is_still_being_sent() {
    let scene = Scene::new().await;
    let address = serve(scene.router.clone()).await;
    let key = scene.key.expose();
    let head = format!(
        "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\n\
         Content-Type: application/json\r\n"
    );
    let size = 4 << 20;
    let declared = format!("{head}Content-Length: {size}\r\n\r\n{}", "x".repeat(size));
    let chunk = "x".repeat(64 << 10);
    let chunks = format!("{:x}\r\n{chunk}\r\n", chunk.len()).repeat(size / chunk.len());
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    let asks_first = format!("{head}Expect: 100-continue\r\nContent-Length: {size}\r\n\r\n");
    for request in [declared, chunked, asks_first] {
        let answer = exchange(address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains(r#""code":413"#), "{answer}");
    }
}

#[tokio::test]
async fn bodies_in_chunks_and_bodies_that_are_not_properly_in_chunks() {
    let scene = Scene::new().await;
    let address = serve(scene.router.clone()).await;
    let key = scene.key.expose();
    let head = format!(
        "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\n\
         Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let good = format!("{head}5\r\n{{\"tem\r\nd\r\nplateID\":\"bas\r\n3\r\ne\"}}\r\n0\r\n\r\n");
    let answer = exchange(address, good.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let bad = format!("{head}zz\r\n{{}}\r\n0\r\n\r\n");
    let answer = exchange(address, bad.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(scene.fleet.all().len(), 1);
}

#[tokio::test]
async fn an_operators_shorter_limit_holds() {
    let config = ApiConfig { max_timeout: std::time::Duration::from_secs(100), ..ApiConfig::default() };
    let scene = Scene::with(config).await;
    refused(&scene, &with(&json!({"timeout": 101})), 400, "from 0 to 100 seconds").await;
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
    let record = &scene.fleet.all()[0];
    assert_eq!(record.end_at.duration_since(record.spec.started_at).as_secs(), 100, "the default is cut");
}
