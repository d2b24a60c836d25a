//! How long connections last, and how they end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use edge::{EdgeConfig, Timeouts};
use http::Request;
use http_body_util::BodyExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::harness::{
    Raw, Served, ask, empty, guest, http1, http2, id, mirror, public, raw_guest, soon, to, until,
};

const ASK: &str = "GET / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n";

async fn served(timeouts: Timeouts, guest: std::net::SocketAddr) -> Served {
    let served = Served::with(EdgeConfig { timeouts, ..Default::default() }).await;
    served.world.put("ione", public(), &[(80, guest)]);
    served
}

fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[tokio::test]
async fn a_header_must_arrive_in_time() {
    let served = served(Timeouts { header: milliseconds(300), ..Default::default() }, mirror()).await;
    // Nothing, a part, the start of HTTP/2.
    for start in ["", "GET / HT", "PRI * HTTP/2.0\r\n"] {
        let mut raw = served.connect().await;
        raw.send(start).await;
        let since = Instant::now();
        raw.rest().await;
        assert!(since.elapsed() < Duration::from_secs(10), "{start:?}");
    }
    // A byte now and then, on a fresh connection and on one that was good before.
    for good in [false, true] {
        let mut raw = served.connect().await;
        if good {
            raw.send(ASK).await;
            raw.response().await;
        }
        raw.send("GET / HTTP/1.1\r\nx-slow: ").await;
        soon(async {
            while raw.0.write_all(b"x").await.is_ok() {
                tokio::time::sleep(milliseconds(20)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_connection_may_rest_longer_than_a_header_may_take() {
    let timeouts =
        Timeouts { header: milliseconds(150), client_idle: milliseconds(2500), ..Default::default() };
    let served = served(timeouts, mirror()).await;
    let mut raw = served.connect().await;
    for _ in 0..3 {
        raw.send(ASK).await;
        raw.response().await;
        // The rest itself is what is tested.
        tokio::time::sleep(milliseconds(600)).await;
    }
    assert_eq!(raw.rest().await, "");
}

#[tokio::test]
async fn a_slow_answer_is_waited_for() {
    let app = Router::new().route(
        "/",
        get(async || {
            tokio::time::sleep(milliseconds(900)).await;
            "at last"
        }),
    );
    let timeouts =
        Timeouts { header: milliseconds(100), client_idle: milliseconds(200), ..Default::default() };
    let served = served(timeouts, guest(app)).await;
    for client in [http1(), http2()] {
        let request = served.request("GET", "/").body(empty()).unwrap();
        assert_eq!(ask(&client, request).await, (200, "at last".to_owned()));
    }
}

/// A guest that sends `answer` and then nothing, and counts the connections that were closed on it.
fn stalling(answer: &'static str) -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let addr = raw_guest({
        let closed = Arc::clone(&closed);
        move |mut raw: Raw| {
            let closed = Arc::clone(&closed);
            async move {
                raw.head().await;
                raw.send(answer).await;
                raw.rest().await;
                closed.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (addr, closed)
}

#[tokio::test]
async fn an_exchange_that_stands_still_is_ended() {
    let timeouts = || Timeouts { exchange_idle: milliseconds(200), ..Default::default() };
    let (addr, closed) = stalling("");
    let silent = served(timeouts(), addr).await;
    assert_eq!(ask(&http1(), silent.request("GET", "/").body(empty()).unwrap()).await.0, 502);
    until(|| closed.load(Ordering::SeqCst) == 1).await;

    let (addr, closed) = stalling("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
    let stuck = served(timeouts(), addr).await;
    let response = soon(http1().request(stuck.request("GET", "/").body(empty()).unwrap())).await.unwrap();
    assert!(soon(response.into_body().collect()).await.is_err());
    until(|| closed.load(Ordering::SeqCst) == 1).await;

    let (addr, closed) =
        stalling("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n");
    let tunnel = served(timeouts(), addr).await;
    let mut raw = tunnel.connect().await;
    raw.send(&ASK.replace("\r\n\r\n", "\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(raw.rest().await, "");
    until(|| closed.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn an_exchange_without_end_is_ended() {
    let timeouts = Timeouts { exchange_total: milliseconds(500), ..Default::default() };
    let ticking = raw_guest(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        while raw.0.write_all(b"1\r\nx\r\n").await.is_ok() {
            tokio::time::sleep(milliseconds(10)).await;
        }
    });
    let served = served(timeouts, ticking).await;
    let response = soon(http1().request(served.request("GET", "/").body(empty()).unwrap())).await.unwrap();
    assert!(soon(response.into_body().collect()).await.is_err());
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn idle_connections_to_guests_are_closed() {
    let (addr, closed) = stalling(OK);
    let served = served(Timeouts { pooled_idle: milliseconds(200), ..Default::default() }, addr).await;
    assert_eq!(ask(&http1(), served.request("GET", "/").body(empty()).unwrap()).await.0, 200);
    until(|| closed.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_sandbox_that_ended_keeps_no_connection() {
    for told in [true, false] {
        let (idle, idle_closed) = stalling(OK);
        let (busy, busy_closed) = stalling("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
        let (silent, silent_closed) = stalling("");
        let pooled_idle = if told { Timeouts::default().pooled_idle } else { milliseconds(200) };
        let served = served(Timeouts { pooled_idle, ..Default::default() }, idle).await;
        served.world.put("ione", public(), &[(80, idle), (81, busy), (82, silent)]);
        let client = http1();
        assert_eq!(ask(&client, served.request("GET", "/").body(empty()).unwrap()).await.0, 200);
        let streaming = to(Request::get(served.url("/")), "ione", 81).body(empty()).unwrap();
        let streaming = soon(client.request(streaming)).await.unwrap();
        let waiting = to(Request::get(served.url("/")), "ione", 82).body(empty()).unwrap();
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { ask(&client, waiting).await }
        });
        until(|| served.world.connects() == 3).await;
        served.world.remove("ione");
        if told {
            served.edge.forget(&id("ione"));
        }
        assert!(soon(streaming.into_body().collect()).await.is_err());
        assert_eq!(soon(waiting).await.unwrap().0, 502);
        for closed in [idle_closed, busy_closed, silent_closed] {
            until(|| closed.load(Ordering::SeqCst) == 1).await;
        }
        let again = served.request("GET", "/").body(empty()).unwrap();
        assert!(ask(&client, again).await.1.contains("The sandbox was not found"));
    }
}

#[tokio::test]
async fn a_stopping_server_finishes_what_is_under_way() {
    let (started, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = Router::new().route(
        "/",
        get({
            let (started, release) = (Arc::clone(&started), Arc::clone(&release));
            async move || {
                started.notify_one();
                release.notified().await;
                "done"
            }
        }),
    );
    for client in [http1(), http2()] {
        let served = Served::one(guest(app.clone())).await;
        let mut resting = served.connect().await;
        resting.send(&ASK.replace("ione", "igone")).await;
        resting.response().await;
        let mut fresh = served.connect().await;
        let answer = tokio::spawn({
            let request = served.request("GET", "/").body(empty()).unwrap();
            async move { ask(&client, request).await }
        });
        soon(started.notified()).await;
        served.shutdown.cancel();
        assert_eq!(resting.rest().await, "");
        assert_eq!(fresh.rest().await, "");
        assert!(!served.done.is_finished());
        release.notify_one();
        assert_eq!(soon(answer).await.unwrap(), (200, "done".to_owned()));
        soon(served.done).await.unwrap();
        assert!(tokio::net::TcpStream::connect(served.addr).await.is_err());
    }
}

#[tokio::test]
async fn a_stopping_server_does_not_wait_for_ever() {
    let (addr, closed) = stalling("");
    let served = served(Timeouts { drain: milliseconds(200), ..Default::default() }, addr).await;
    let mut raw = served.connect().await;
    raw.send(ASK).await;
    until(|| served.world.connects() == 1).await;
    served.shutdown.cancel();
    soon(served.done).await.unwrap();
    raw.rest().await;
    until(|| closed.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_a_place() {
    let config = EdgeConfig { max_connections: 2, ..Default::default() };
    let served = Served::with(config).await;
    served.world.put("ione", public(), &[(80, mirror())]);
    let (mut first, mut second, mut third) =
        (served.connect().await, served.connect().await, served.connect().await);
    for raw in [&mut first, &mut second] {
        raw.send(ASK).await;
        raw.response().await;
    }
    third.send(ASK).await;
    let early = tokio::time::timeout(milliseconds(200), third.0.readable()).await;
    assert!(early.is_err(), "the third of two was served");
    drop(first);
    third.response().await;
}
