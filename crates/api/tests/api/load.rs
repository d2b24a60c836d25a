//! Many requests at once, each answered and none lost.

use api::ApiConfig;
use catalog::TeamLimits;
use serde_json::json;
use std::sync::atomic::Ordering;

use crate::client::{exchange, serve};
use crate::scene::{Scene, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_clients_at_once_through_real_sockets() {
    const CLIENTS: usize = 1000;
    let scene = Scene::with(ApiConfig { max_creates: CLIENTS, ..ApiConfig::default() }).await;
    let limits = TeamLimits { max_sandboxes: 2000, max_hours: 1 };
    scene.catalog.set_team_limits(&scene.team.id, limits).await.unwrap();
    let address = serve(scene.router.clone()).await;
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let key = scene.key.expose().to_owned();
            tokio::spawn(async move {
                let body = json!({"templateID": "base", "metadata": {"n": n.to_string()}}).to_string();
                let request = format!(
                    "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {key}\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                exchange(address, request.as_bytes()).await
            })
        })
        .collect();
    for task in tasks {
        let answer = task.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    }
    let mut numbers: Vec<usize> =
        scene.fleet.all().iter().map(|record| record.spec.metadata["n"].parse().unwrap()).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..CLIENTS));
}

#[tokio::test]
async fn more_requests_than_the_server_takes_at_once_are_turned_away() {
    let scene = Scene::with(ApiConfig { max_requests: 2, ..ApiConfig::default() }).await;
    scene.fleet.open.send_replace(false);
    let creates: Vec<_> = (0..2)
        .map(|_| {
            let client = scene.client();
            tokio::spawn(async move { client.post("/v2/sandboxes", &json!({"templateID": "base"})).await })
        })
        .collect();
    until("two requests are under way", || scene.fleet.waiting.load(Ordering::SeqCst) == 2).await;
    let third = scene.client().get("/v2/sandboxes").await;
    third.is_error(503, "too many requests");
    assert_eq!(third.header("retry-after"), Some("1"));
    scene.client().get("/health").await.is(200);
    scene.fleet.open.send_replace(true);
    for create in creates {
        create.await.unwrap().is(201);
    }
    scene.client().get("/v2/sandboxes").await.is(200);
}
