//! Clients that go away, or are too slow, in the middle of a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::ApiConfig;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::{exchange, serve};
use crate::scene::{Scene, until, until_asked};

/// Tells when the server is done with a request, one way or the other.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Sends a request through a real socket, leaves while the fleet is at so many things, and returns when the server knows.
async fn ask_and_leave(scene: &Scene, path: &str, extra_header: &str, body: &Value, waiting: usize) {
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let watch = from_fn(move |request: Request, next: Next| {
        let ended = Ended(flag.clone());
        async move {
            let _ended = ended;
            next.run(request).await
        }
    });
    let address = serve(scene.router.clone().layer(watch)).await;
    let body = body.to_string();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\n{extra_header}Content-Length: {}\r\n\r\n{body}",
        scene.key.expose(),
        body.len()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    until("it is under way", || scene.fleet.waiting.load(Ordering::SeqCst) == waiting).await;
    drop(stream);
    until("the server notices", || ended.load(Ordering::SeqCst)).await;
}

async fn create_and_leave(scene: &Scene, extra_header: &str) {
    scene.fleet.open.send_replace(false);
    ask_and_leave(scene, "/v2/sandboxes", extra_header, &json!({"templateID": "base"}), 1).await;
    scene.fleet.open.send_replace(true);
    until("the create is over", || scene.fleet.created.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_sandbox_whose_id_nobody_received_is_ended() {
    let scene = Scene::new().await;
    create_and_leave(&scene, "").await;
    until("the sandbox is ended", || scene.fleet.killed.load(Ordering::SeqCst) == 1).await;
    assert!(scene.fleet.all().is_empty());
}

#[tokio::test]
async fn with_an_idempotency_key_it_is_there_for_the_next_try() {
    let scene = Scene::new().await;
    create_and_leave(&scene, "Idempotency-Key: try-me\r\n").await;
    let request =
        scene.client().request(http::Method::POST, "/v2/sandboxes").header("Idempotency-Key", "try-me");
    let body = json!({"templateID": "base"}).to_string();
    let answer = scene.client().send(request.body(body.into()).unwrap()).await.is(201);
    assert_eq!(answer["sandboxID"], scene.fleet.all()[0].spec.id.as_str());
    assert_eq!(scene.fleet.killed.load(Ordering::SeqCst), 0);
    assert_eq!(scene.fleet.created.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn sandboxes_of_a_fork_whose_ids_nobody_received_are_ended() {
    let scene = Scene::new().await;
    let path = format!("/sandboxes/{}/fork", scene.sandbox(1, &[]).spec.id);
    scene.fleet.open_to_creates.send_replace(false);
    ask_and_leave(&scene, &path, "", &json!({"count": 3}), 3).await;
    scene.fleet.open_to_creates.send_replace(true);
    until("three are ended", || scene.fleet.killed.load(Ordering::SeqCst) == 3).await;
    assert_eq!(scene.fleet.all().len(), 1);
    assert!(scene.fleet.kept().is_empty(), "and nobody makes others like them");
}

#[tokio::test]
async fn a_snapshot_that_nobody_heard_of_is_in_the_list() {
    let scene = Scene::new().await;
    let path = format!("/sandboxes/{}/snapshots", scene.sandbox(1, &[]).spec.id);
    scene.fleet.open.send_replace(false);
    ask_and_leave(&scene, &path, "", &json!({}), 1).await;
    scene.fleet.open.send_replace(true);
    until_asked("it is listed", async || {
        scene.client().get("/snapshots").await.is(200).as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(scene.fleet.kept().len(), 1);
}

#[tokio::test]
async fn a_create_that_takes_too_long_is_answered_and_undone() {
    let config = ApiConfig { create_deadline: Duration::from_millis(100), ..ApiConfig::default() };
    let scene = Scene::with(config).await;
    scene.fleet.open.send_replace(false);
    let answer = scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await;
    answer.is_error(504, "took longer than");
    scene.fleet.open.send_replace(true);
    until("the sandbox is ended", || scene.fleet.killed.load(Ordering::SeqCst) == 1).await;
    assert!(scene.fleet.all().is_empty());
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let config = ApiConfig { body_deadline: Duration::from_millis(100), ..ApiConfig::default() };
    let scene = Scene::with(config).await;
    let address = serve(scene.router.clone()).await;
    let request = format!(
        "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-API-Key: {}\r\nContent-Length: 100\r\n\r\n{{",
        scene.key.expose()
    );
    let answer = exchange(address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains(r#""code":408"#), "{answer}");
}

#[tokio::test]
async fn a_body_that_breaks_off_makes_nothing() {
    let scene = Scene::new().await;
    let address = serve(scene.router.clone()).await;
    let request = format!(
        "POST /v2/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: {}\r\nContent-Length: 100\r\n\r\n{{\"templateID\":",
        scene.key.expose()
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    scene.client().post("/v2/sandboxes", &json!({"templateID": "base"})).await.is(201);
    assert_eq!(scene.fleet.created.load(Ordering::SeqCst), 1);
}
