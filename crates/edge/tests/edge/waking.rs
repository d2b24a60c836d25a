//! Requests for sandboxes that are paused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use edge::{EdgeConfig, Timeouts, WakeError};
use futures_util::{SinkExt, StreamExt};
use http::Request;
use model::Secret;
use sha2::{Digest, Sha256};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{
    ENVD, Raw, Served, ask, empty, full, guest, http1, http2, id, pieces, public, raw_guest, soon, to, until,
};

/// A guest that says what it was sent, and counts requests.
fn echo() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let app = Router::new().fallback(any(async move |body: Bytes| {
        seen.fetch_add(1, Ordering::SeqCst);
        body
    }));
    (guest(app), count)
}

/// An edge before a public sandbox `ione` that is paused, with an echo at port 80 and at the daemon's port.
async fn asleep(timeouts: Timeouts) -> (Served, Arc<AtomicUsize>) {
    let served = Served::with(EdgeConfig { timeouts, ..Default::default() }).await;
    let (addr, count) = echo();
    served.world.put("ione", public(), &[(80, addr), (ENVD, addr)]);
    served.world.put_to_sleep("ione");
    (served, count)
}

#[tokio::test]
async fn a_request_waits_for_the_resume_and_gets_its_answer() {
    for client in [http1(), http2()] {
        let (served, _) = asleep(Timeouts::default()).await;
        served.world.bed.close();
        let request = served.request("POST", "/x").body(full("hello")).unwrap();
        let answer = tokio::spawn({
            let client = client.clone();
            async move { ask(&client, request).await }
        });
        until(|| served.world.waking() == 1).await;
        assert_eq!(served.world.connects(), 0);
        served.world.bed.open();
        assert_eq!(soon(answer).await.unwrap(), (200, "hello".to_owned()));
        // It runs now.
        let request = served.request("POST", "/x").body(full("again")).unwrap();
        assert_eq!(ask(&client, request).await, (200, "again".to_owned()));
        assert_eq!((served.world.wakes(), served.world.resumes()), (1, 1));
    }
}

#[tokio::test]
async fn the_daemons_port_wakes_as_others_do() {
    let (served, _) = asleep(Timeouts::default()).await;
    let request = to(Request::post(served.url("/files")), "ione", ENVD).body(full("hello")).unwrap();
    assert_eq!(ask(&http1(), request).await, (200, "hello".to_owned()));
}

#[tokio::test]
async fn many_at_once_resume_once_and_all_get_their_own_answer() {
    const MANY: usize = 300;
    let (served, count) = asleep(Timeouts::default()).await;
    served.world.bed.close();
    let clients = [http1(), http2()];
    let answers: Vec<_> = (0..MANY)
        .map(|n| {
            let body = format!("request {n}");
            let request = served.request("POST", "/").body(full(body.clone())).unwrap();
            let client = clients[n % 2].clone();
            tokio::spawn(async move { assert_eq!(ask(&client, request).await, (200, body)) })
        })
        .collect();
    until(|| served.world.waking() == MANY).await;
    served.world.bed.open();
    for answer in answers {
        soon(answer).await.unwrap();
    }
    assert_eq!((served.world.resumes(), count.load(Ordering::SeqCst)), (1, MANY));
}

#[tokio::test]
async fn a_large_body_waits_with_its_request() {
    let (served, _) = asleep(Timeouts::default()).await;
    served.world.bed.close();
    let request = served.request("POST", "/").body(pieces(16, vec![b'x'; 64 << 10].into())).unwrap();
    let answer = tokio::spawn(async move { ask(&http1(), request).await });
    until(|| served.world.waking() == 1).await;
    served.world.bed.open();
    let (status, body) = soon(answer).await.unwrap();
    assert_eq!((status, body.len()), (200, 1 << 20));
}

#[tokio::test]
async fn what_would_be_refused_anyway_wakes_nobody() {
    let (served, _) = asleep(Timeouts::default()).await;
    let mut private = public();
    private.policy.allow_public_traffic = false;
    private.traffic_token = Some(Secret::new("secret"));
    let (addr, _) = echo();
    served.world.put("itwo", private, &[(80, addr)]);
    served.world.put_to_sleep("itwo");
    let client = http1();
    for path in ["/init", "/snapshot/prepare", "/sync", "/freeze", "/x/../unfreeze", "/%66sthaw", "/COLLAPSE"]
    {
        let request = to(Request::post(served.url(path)), "ione", ENVD).body(full("{}")).unwrap();
        assert_eq!(ask(&client, request).await.0, 404, "{path}");
    }
    for token in [None, Some("wrong"), Some("")] {
        let mut request = to(Request::get(served.url("/")), "itwo", 80);
        if let Some(token) = token {
            request = request.header("e2b-traffic-access-token", token);
        }
        assert_eq!(ask(&client, request.body(empty()).unwrap()).await.0, 403, "{token:?}");
    }
    let mut raw = served.connect().await;
    raw.send("CONNECT x:1 HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 405 "));
    assert_eq!(served.world.wakes(), 0);
    let right = to(Request::get(served.url("/")), "itwo", 80).header("e2b-traffic-access-token", "secret");
    assert_eq!(ask(&client, right.body(empty()).unwrap()).await.0, 200);
    assert_eq!((served.world.wakes(), served.world.resumes()), (1, 1));
}

#[tokio::test]
async fn a_resume_that_does_not_come_about_is_told_by_its_reason() {
    type Case = (fn() -> WakeError, u16, &'static str);
    let (served, _) = asleep(Timeouts::default()).await;
    let cases: [Case; 4] = [
        (|| WakeError::NotFound, 502, "The sandbox was not found"),
        (
            || WakeError::NoRoom("limit of 3, says the team".into()),
            503,
            "The sandbox is paused and there is no room to resume it now",
        ),
        (
            || WakeError::NeedsReboot("/secret/path is damaged".into()),
            502,
            "The sandbox is paused without a memory that it could go on with, and a request does not reboot it: connect to it",
        ),
        (
            || WakeError::Failed("/secret/path is damaged".into()),
            502,
            "The sandbox is paused and could not be resumed",
        ),
    ];
    for (error, status, message) in cases {
        *served.world.wake_error.lock().unwrap() = Some(error);
        let request = served.request("GET", "/").body(empty()).unwrap();
        let response = soon(http1().request(request)).await.unwrap();
        let retry = response.headers().get("retry-after").cloned();
        assert_eq!(retry.is_some(), status == 503);
        assert_eq!(response.status(), status);
        let want = format!(r#"{{"sandboxId":"ione","message":"{message}","code":{status}}}"#);
        assert_eq!(crate::harness::text(response).await, want);
    }
    // A large upload gets to see that, too.
    let request = served.request("POST", "/").body(pieces(160, vec![7; 64 << 10].into())).unwrap();
    assert_eq!(ask(&http1(), request).await.0, 502);
    assert_eq!(served.world.connects(), 0);
    *served.world.wake_error.lock().unwrap() = None;
    assert_eq!(ask(&http1(), served.request("GET", "/").body(empty()).unwrap()).await.0, 200);
}

#[tokio::test]
async fn a_resume_is_not_waited_for_for_ever() {
    let (served, _) = asleep(Timeouts { wake: Duration::from_millis(100), ..Timeouts::default() }).await;
    served.world.bed.close();
    let request = served.request("GET", "/").body(empty()).unwrap();
    let want =
        r#"{"sandboxId":"ione","message":"The sandbox is paused and was not resumed in time","code":504}"#;
    assert_eq!(ask(&http1(), request).await, (504, want.to_owned()));
    until(|| served.world.waking() == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_harms_nobody() {
    let (served, count) = asleep(Timeouts::default()).await;
    served.world.bed.close();
    let ask_raw = "GET / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n";
    let mut leaver = served.connect().await;
    leaver.send(ask_raw).await;
    let mut stayer = served.connect().await;
    stayer.send(ask_raw).await;
    until(|| served.world.waking() == 2).await;
    drop(leaver);
    until(|| served.world.waking() == 1).await;
    served.world.bed.open();
    assert!(stayer.head().await.starts_with("HTTP/1.1 200 "));
    assert_eq!((served.world.resumes(), count.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn websockets_wake() {
    let socket = raw_guest(|raw: Raw| async move {
        let mut socket = tokio_tungstenite::accept_async(raw.0).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() {
                socket.send(message).await.unwrap();
            }
        }
    });
    let served = Served::one(socket).await;
    served.world.put_to_sleep("ione");
    let request = "ws://80-ione.sbx.test/".into_client_request().unwrap();
    let stream = served.connect().await.0;
    let (mut socket, response) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
    assert_eq!(response.status(), 101);
    socket.send(Message::text("awake?")).await.unwrap();
    assert_eq!(soon(socket.next()).await.unwrap().unwrap(), Message::text("awake?"));
    assert_eq!(served.world.resumes(), 1);
}

#[tokio::test]
async fn signed_file_urls_wake() {
    let (served, _) = asleep(Timeouts::default()).await;
    let (addr, _) = echo();
    let target = edge::Target { envd_token: Some(Secret::new("tok")), ..public() };
    served.world.put("itwo", target, &[(ENVD, addr)]);
    served.world.put_to_sleep("itwo");
    let signature = STANDARD_NO_PAD.encode(Sha256::digest("x:write::tok")).replace('+', "%2B");
    let url = served.url(&format!("/files?path=x&signature=v1_{signature}"));
    let request = Request::post(url).body(full("content")).unwrap();
    assert_eq!(ask(&http1(), request).await, (200, "content".to_owned()));
    assert_eq!(served.world.resumes(), 1);
}

#[tokio::test]
async fn a_sandbox_that_is_paused_just_when_a_request_was_let_in_is_woken() {
    for (pauses, status) in [(1, 200), (2, 200), (3, 502)] {
        let (addr, count) = echo();
        let served = Served::one(addr).await;
        served.world.pauses.store(pauses, Ordering::SeqCst);
        let request = served.request("POST", "/").body(full("hello")).unwrap();
        let (seen, body) = ask(&http1(), request).await;
        assert_eq!(seen, status, "{pauses}: {body}");
        if status == 200 {
            assert_eq!((body.as_str(), count.load(Ordering::SeqCst)), ("hello", 1));
        } else {
            assert!(body.contains("The sandbox was not found"), "{body}");
        }
        assert_eq!(served.world.wakes(), pauses.min(2));
    }
}

#[tokio::test]
async fn a_pause_between_two_requests_is_not_noticed_by_the_client() {
    // Told, or noticed by the edge itself.
    for told in [true, false] {
        let pooled_idle = if told { Timeouts::default().pooled_idle } else { Duration::from_millis(100) };
        let served = Served::with(EdgeConfig {
            timeouts: Timeouts { pooled_idle, ..Timeouts::default() },
            ..Default::default()
        })
        .await;
        let closed = Arc::new(AtomicUsize::new(0));
        let addr = raw_guest({
            let closed = Arc::clone(&closed);
            move |mut raw: Raw| {
                let closed = Arc::clone(&closed);
                async move {
                    while raw.try_head().await.is_some() {
                        raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                    }
                    closed.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        served.world.put("ione", public(), &[(80, addr)]);
        let client = http1();
        for round in 1..=3 {
            let request = served.request("POST", "/").body(empty()).unwrap();
            assert_eq!(ask(&client, request).await, (200, "ok".to_owned()));
            served.world.put_to_sleep("ione");
            if told {
                served.edge.forget(&id("ione"));
            }
            // No connection into the guest outlives the pause.
            until(|| closed.load(Ordering::SeqCst) == round).await;
            assert_eq!(served.world.connects(), round);
        }
        assert_eq!(served.world.resumes(), 2);
    }
}
