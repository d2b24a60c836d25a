//! Snapshots: made, listed, started from, deleted.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use api::ApiConfig;
use http::Method;
use model::{BuildId, SandboxId, SandboxState};
use serde_json::{Value, json};

use crate::client::{Answer, Client, exchange, serve};
use crate::fleet::NO_SNAPSHOT;
use crate::scene::{SHAPE, Scene, template, until, until_asked};

/// Makes a snapshot of a new sandbox; what comes back is what clients call the snapshot.
async fn snapshot(scene: &Scene, body: &Value) -> String {
    let id = scene.sandbox(1, &[]).spec.id;
    let answer = scene.client().post(&format!("/sandboxes/{id}/snapshots"), body).await.is(201);
    answer["snapshotID"].as_str().unwrap().to_owned()
}

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let all = answer.body.as_array().unwrap();
    all.iter().map(|item| item["snapshotID"].as_str().unwrap().to_owned()).collect()
}

/// As the SDKs do it: `/` and `:` encoded.
async fn delete(client: &Client, name: &str) -> Answer {
    client.delete(&format!("/templates/{}", name.replace('/', "%2F").replace(':', "%3A"))).await
}

async fn create(scene: &Scene, name: &str) -> Answer {
    scene.client().post("/v2/sandboxes", &json!({"templateID": name})).await
}

/// Every build that the fleet keeps is named in the catalog.
async fn nothing_is_nameless(scene: &Scene) {
    let named: HashSet<BuildId> = scene.catalog.named_builds().await.unwrap().into_iter().collect();
    assert!(scene.fleet.kept().is_subset(&named));
}

#[tokio::test]
async fn a_snapshot_is_what_sandboxes_start_from_by_every_name() {
    let scene = Scene::new().await;
    let source = scene.sandbox(10, &[]).spec.id;
    let path = format!("/sandboxes/{source}-6532622b/snapshots");
    let bare = scene.client().post_text(&path, "").await.is(201);
    let id = bare["snapshotID"].as_str().unwrap();
    assert!(id.ends_with(":default"), "{id}");
    assert_eq!(bare, json!({"snapshotID": id, "names": []}));
    let named = scene.client().post(&path, &json!({"name": "Rose", "memory": true})).await.is(201);
    assert_eq!(named, json!({"snapshotID": "garden/rose:default", "names": ["garden/rose:default"]}));
    let tagged = scene.client().post(&path, &json!({"name": "garden/rose:v1", "memory": null})).await.is(201);
    assert_eq!(tagged, json!({"snapshotID": "garden/rose:v1", "names": ["garden/rose:v1"]}));
    assert_eq!(scene.now(&source).state, SandboxState::Running);
    assert_eq!(scene.fleet.kept().len(), 3);
    nothing_is_nameless(&scene).await;

    let untagged = id.strip_suffix(":default").unwrap();
    for (name, alias) in
        [(id, None), (untagged, None), ("rose", Some("rose")), ("garden/rose:v1", Some("rose"))]
    {
        let made = create(&scene, name).await.is(201);
        assert_eq!(made.get("alias").and_then(Value::as_str), alias, "{name}");
        let record = scene.now(&made["sandboxID"].as_str().unwrap().parse().unwrap());
        assert!(scene.fleet.kept().contains(&record.spec.build), "{name}");
        assert_eq!(record.spec.shape, SHAPE);
    }
    let templates = scene.client().get("/templates").await.is(200);
    assert_eq!(templates.as_array().unwrap().len(), 1, "snapshots are not among the templates");
}

#[tokio::test]
async fn a_snapshot_under_a_used_name_takes_its_place() {
    let scene = Scene::new().await;
    let first = snapshot(&scene, &json!({"name": "rose"})).await;
    let before = scene.fleet.kept();
    let second = snapshot(&scene, &json!({"name": "garden/rose:default"})).await;
    assert_eq!(first, second);
    assert_eq!(ids(&scene.client().get("/snapshots").await), [second]);
    assert_eq!(scene.fleet.builds.lock().unwrap().forgotten, Vec::from_iter(before));
    assert_eq!(scene.fleet.kept().len(), 1);
    create(&scene, "rose").await.is(201);
}

#[tokio::test]
async fn a_snapshot_keeps_the_memory_unless_somebody_says_otherwise() {
    let scene = Scene::new().await;
    let disk = snapshot(&scene, &json!({"memory": false, "name": "rose"})).await;
    for body in [json!({}), json!({"memory": true}), json!({"memory": null})] {
        snapshot(&scene, &body).await;
    }
    let child: SandboxId =
        create(&scene, &disk).await.is(201)["sandboxID"].as_str().unwrap().parse().unwrap();
    let source = scene.sandbox(10, &[]).spec.id;
    scene.client().post(&format!("/sandboxes/{source}/fork"), &json!({})).await.is(201);
    assert_eq!(scene.fleet.builds.lock().unwrap().disks, HashSet::from([scene.now(&child).spec.build]));
}

#[tokio::test]
async fn what_cannot_be_snapshotted() {
    let scene = Scene::new().await;
    let rose = template(Some(&scene.team), "rose");
    scene.catalog.put_template(&rose).await.unwrap();
    let id = scene.sandbox(10, &[]).spec.id;
    let path = format!("/sandboxes/{id}/snapshots");
    let long = "x".repeat(200);
    for (body, status, text) in [
        (json!({"memory": "no"}), 400, "memory"),
        (json!({"name": 7}), 400, "name"),
        (json!({"name": ""}), 400, "is not a template name"),
        (json!({"name": "a/b/c"}), 400, "is not a template name"),
        (json!({"name": "ba se"}), 400, "is not a template name"),
        (json!({"name": "rose:"}), 400, "is not a template name"),
        (json!({"name": long}), 400, "is not a template name"),
        (json!({"name": "alpine/new"}), 400, "is not a name of this team: write 'garden/NAME'"),
        (json!({"name": "rose"}), 409, "'rose' is a template and no snapshot"),
        (json!({"name": "garden/rose:v1"}), 409, "is a template and no snapshot"),
        (json!({"name": "base"}), 409, "'base' is a template and no snapshot"),
        (json!({"name": rose.id.as_str()}), 409, "is a template and no snapshot"),
    ] {
        scene.client().post(&path, &body).await.is_error(status, text);
    }
    assert_eq!(scene.fleet.snapshotted.load(Ordering::SeqCst), 0, "it was refused before it cost anything");

    let paused = scene.paused(10, &[]).spec.id;
    let unknown = SandboxId::random();
    let full = scene.sandbox(10, &[("test", NO_SNAPSHOT)]).spec.id;
    for (id, status, text) in
        [(&paused, 409, "is paused"), (&unknown, 404, "exist"), (&full, 503, "no space")]
    {
        let answer = scene.client().post(&format!("/sandboxes/{id}/snapshots"), &json!({})).await;
        answer.is_error(status, text);
    }
    let (_, stranger) = scene.stranger().await;
    stranger.post(&path, &json!({})).await.is_error(404, "exist");
    assert!(ids(&scene.client().get("/snapshots").await).is_empty());
    assert!(scene.fleet.kept().is_empty());
}

#[tokio::test]
async fn a_snapshot_outlives_its_client() {
    let config = ApiConfig { create_deadline: Duration::from_millis(100), ..ApiConfig::default() };
    let scene = Scene::with(config).await;
    let id = scene.sandbox(1, &[]).spec.id;
    scene.fleet.open.send_replace(false);
    let answer = scene.client().post(&format!("/sandboxes/{id}/snapshots"), &json!({"name": "rose"})).await;
    answer.is_error(504, "took longer than");
    assert!(ids(&scene.client().get("/snapshots").await).is_empty());
    scene.fleet.open.send_replace(true);
    until_asked("it is listed", async || {
        ids(&scene.client().get("/snapshots").await) == ["garden/rose:default"]
    })
    .await;
    nothing_is_nameless(&scene).await;
}

#[tokio::test]
async fn a_build_that_gets_no_name_is_forgotten() {
    let scene = Scene::new().await;
    let id = scene.sandbox(1, &[]).spec.id;
    let ask = |body: Value| {
        let (client, path) = (scene.client(), format!("/sandboxes/{id}/snapshots"));
        tokio::spawn(async move { client.post(&path, &body).await })
    };
    // Its name is taken while the snapshot is made.
    scene.fleet.open.send_replace(false);
    let late = ask(json!({"name": "rose"}));
    until("it waits", || scene.fleet.waiting.load(Ordering::SeqCst) == 1).await;
    scene.catalog.put_template(&template(Some(&scene.team), "rose")).await.unwrap();
    scene.fleet.open.send_replace(true);
    late.await.unwrap().is_error(409, "is a template and no snapshot");
    assert!(scene.fleet.kept().is_empty());

    // The catalog breaks meanwhile.
    scene.fleet.open.send_replace(false);
    let broken = ask(json!({}));
    until("it waits", || scene.fleet.waiting.load(Ordering::SeqCst) == 1).await;
    scene.catalog.close().await;
    scene.fleet.open.send_replace(true);
    broken.await.unwrap().is_error(500, "internal server error");
    assert!(scene.fleet.kept().is_empty());
    assert_eq!(scene.fleet.builds.lock().unwrap().forgotten.len(), 2);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let scene = Scene::new().await;
    let source = scene.sandbox(1, &[]).spec.id;
    let path = format!("/sandboxes/{source}/snapshots");
    let mut made = Vec::new();
    for n in 0..7 {
        let body = if n % 2 == 0 { json!({}) } else { json!({"name": format!("rose:v{n}")}) };
        made.insert(
            0,
            scene.client().post(&path, &body).await.is(201)["snapshotID"].as_str().unwrap().to_owned(),
        );
    }
    let other = snapshot(&scene, &json!({"name": "lily"})).await;
    let (_, stranger) = scene.stranger().await;
    assert!(ids(&stranger.get("/snapshots").await).is_empty());

    let client = scene.client();
    let all: Vec<_> = [other.clone()].into_iter().chain(made.clone()).collect();
    assert_eq!(ids(&client.get("/snapshots").await), all);
    let rose = ["garden/rose:v5", "garden/rose:v3", "garden/rose:v1"];
    let bare = made[0].strip_suffix(":default").unwrap();
    for (query, found) in [
        (format!("sandboxID={source}"), made.clone()),
        (format!("sandboxID={source}-6532622b"), made.clone()),
        (format!("sandboxID={}", SandboxId::random()), vec![]),
        ("sandboxID=..%2Fx".into(), vec![]),
        ("sandboxID=&name=".into(), all.clone()),
        ("name=rose".into(), rose.map(str::to_owned).to_vec()),
        ("name=garden%2Frose%3Av3".into(), vec![rose[1].to_owned()]),
        ("name=nothing".into(), vec![]),
        ("name=base".into(), vec![]),
        (format!("name={bare}"), vec![made[0].clone()]),
        (format!("name=lily&sandboxID={source}"), vec![]),
    ] {
        assert_eq!(ids(&client.get(&format!("/snapshots?{query}")).await), found, "{query}");
    }
    assert!(ids(&stranger.get(&format!("/snapshots?name={bare}")).await).is_empty());

    for (query, expected) in [("limit=3", &all), (&format!("limit=2&sandboxID={source}"), &made)] {
        let (mut seen, mut token) = (Vec::new(), None::<String>);
        loop {
            let next = token.map(|token| format!("&nextToken={token}")).unwrap_or_default();
            let answer = client.get(&format!("/snapshots?{query}{next}")).await;
            seen.extend(ids(&answer));
            token = answer.header("x-next-token").map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        assert_eq!(&seen, expected, "{query}");
    }
    for limit in [8, 100] {
        assert_eq!(client.get(&format!("/snapshots?limit={limit}")).await.header("x-next-token"), None);
    }
    for (query, text) in [
        ("limit=0", "limit must be a number from 1 to 100"),
        ("limit=101", "limit must be"),
        ("limit=x", "limit must be"),
        ("nextToken=x", "nextToken is not one"),
        ("name=a%2Fb%2Fc", "is not a template name"),
        ("name=alpine%2Frose", "is not a name of this team"),
    ] {
        client.get(&format!("/snapshots?{query}")).await.is_error(400, text);
    }
}

#[tokio::test]
async fn a_page_goes_on_while_snapshots_come_and_go() {
    let scene = Scene::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.insert(0, snapshot(&scene, &json!({})).await);
    }
    let first = scene.client().get("/snapshots?limit=2").await;
    assert_eq!(ids(&first), made[..2]);
    snapshot(&scene, &json!({})).await;
    delete(&scene.client(), &made[1]).await.is(204);
    delete(&scene.client(), &made[2]).await.is(204);
    let token = first.header("x-next-token").unwrap();
    let second = scene.client().get(&format!("/snapshots?limit=2&nextToken={token}")).await;
    assert_eq!((ids(&second).as_slice(), second.header("x-next-token")), (&made[3..], None));
}

#[tokio::test]
async fn what_is_deleted_is_forgotten_and_its_sandboxes_run_on() {
    let scene = Scene::new().await;
    let bare = snapshot(&scene, &json!({})).await;
    let rose = snapshot(&scene, &json!({"name": "rose"})).await;
    let tagged = snapshot(&scene, &json!({"name": "rose:v1"})).await;
    let child: SandboxId =
        create(&scene, &bare).await.is(201)["sandboxID"].as_str().unwrap().parse().unwrap();
    let build = scene.now(&child).spec.build;

    assert_eq!(delete(&scene.client(), &bare).await.is(204), Value::Null);
    assert_eq!(scene.fleet.builds.lock().unwrap().forgotten, [build]);
    delete(&scene.client(), &bare).await.is_error(404, "not found");
    create(&scene, &bare).await.is_error(404, "not found");
    assert_eq!(scene.now(&child).state, SandboxState::Running);
    let listed = scene.client().get("/v2/sandboxes?order=asc").await.is(200);
    assert!(listed.as_array().unwrap().iter().any(|line| line["sandboxID"] == child.as_str()));

    // By one tag; the other of that name stays, until all go by the name.
    delete(&scene.client(), &tagged).await.is(204);
    delete(&scene.client(), &tagged).await.is_error(404, "tag 'v1' of template 'garden/rose' not found");
    assert_eq!(ids(&scene.client().get("/snapshots").await), [rose]);
    delete(&scene.client(), "rose").await.is(204);
    delete(&scene.client(), "rose").await.is_error(404, "template 'rose' not found");
    assert!(scene.fleet.kept().is_empty());
    assert!(ids(&scene.client().get("/snapshots").await).is_empty());
}

#[tokio::test]
async fn what_a_team_may_not_delete() {
    let scene = Scene::new().await;
    let rose = snapshot(&scene, &json!({"name": "rose"})).await;
    let id = snapshot(&scene, &json!({})).await;
    let (team, stranger) = scene.stranger().await;
    for name in [rose.as_str(), "rose", &id, id.split(':').next().unwrap(), "nothing"] {
        delete(&stranger, name).await.is_error(404, "not found");
    }
    for name in ["base", "base:default", scene.base.id.as_str()] {
        delete(&stranger, name).await.is_error(403, "is built in and cannot be deleted");
    }
    for name in ["a/b/c", "..", "%2e%2e%2fetc", "a%20b"] {
        delete(&stranger, name).await.is_error(400, "is not a template name");
    }
    assert_eq!(ids(&scene.client().get("/snapshots").await), [id, rose]);
    assert_eq!(scene.fleet.kept().len(), 2);

    // A template of its own goes like a snapshot.
    let own = template(Some(&team), "edelweiss");
    scene.catalog.put_template(&own).await.unwrap();
    delete(&stranger, "alpine/edelweiss").await.is(204);
    assert_eq!(scene.fleet.builds.lock().unwrap().forgotten, [own.build]);
}

#[tokio::test]
async fn a_deletion_through_a_real_socket() {
    let scene = Scene::new().await;
    let address = serve(scene.router.clone()).await;
    let rose = snapshot(&scene, &json!({"name": "rose:v.1"})).await;
    for status in ["204", "404"] {
        let request = format!(
            "DELETE /templates/{} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {}\r\n\r\n",
            rose.replace('/', "%2F"),
            scene.key.expose()
        );
        let answer = exchange(address, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let unencoded = scene.client().request(Method::DELETE, "/templates/garden/rose:v.1");
    scene
        .client()
        .send(unencoded.body(axum::body::Body::empty()).unwrap())
        .await
        .is_error(404, "no such route");
}
