//! Connections that switch protocols.

use axum::Router;
use axum::routing::any;
use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{ENVD, Raw, Served, guest, id, mirror, public, raw_guest, soon};

/// Echoes websocket messages.
fn echo() -> std::net::SocketAddr {
    raw_guest(|raw| async move {
        let mut socket = tokio_tungstenite::accept_async(raw.0).await.unwrap();
        while let Some(Ok(message)) = socket.next().await {
            if message.is_text() || message.is_binary() {
                socket.send(message).await.unwrap();
            }
        }
    })
}

#[tokio::test]
async fn websockets_pass_by_headers_and_by_host() {
    let served = Served::one(echo()).await;
    let mut by_headers = format!("ws://{}/chat?x=1", served.addr).into_client_request().unwrap();
    by_headers.headers_mut().insert("E2b-Sandbox-Id", "ione".parse().unwrap());
    by_headers.headers_mut().insert("E2b-Sandbox-Port", "80".parse().unwrap());
    let by_host = "ws://80-ione.sbx.test/".into_client_request().unwrap();
    for request in [by_headers, by_host] {
        let stream = served.connect().await.0;
        let (mut socket, response) = soon(tokio_tungstenite::client_async(request, stream)).await.unwrap();
        assert_eq!(response.status(), 101);
        for message in [Message::text("hello"), Message::binary(vec![7; 1 << 20])] {
            socket.send(message.clone()).await.unwrap();
            assert_eq!(soon(socket.next()).await.unwrap().unwrap(), message);
        }
        soon(socket.close(None)).await.unwrap();
        while let Some(Ok(_)) = soon(socket.next()).await {}
    }
}

const UPGRADE: &str = "GET / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\
                       connection: keep-alive, Upgrade\r\nupgrade: chat\r\n\r\n";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n";

/// A client's side of a tunnel to `guest`.
async fn tunnel(served: &Served) -> Raw {
    let mut raw = served.connect().await;
    raw.send(UPGRADE).await;
    let head = raw.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 ") && head.contains("upgrade: chat"), "{head}");
    raw
}

#[tokio::test]
async fn one_side_may_finish_before_the_other() {
    let served = Served::one(raw_guest(|mut raw| async move {
        raw.head().await;
        raw.send(SWITCHED).await;
        let all = raw.rest().await;
        raw.send(&format!("got {all}")).await;
    }))
    .await;
    let mut raw = tunnel(&served).await;
    raw.send("question").await;
    raw.0.shutdown().await.unwrap();
    assert_eq!(raw.rest().await, "got question");
}

#[tokio::test]
async fn the_end_of_the_sandbox_ends_its_tunnels() {
    let served = Served::one(raw_guest(|mut raw| async move {
        raw.head().await;
        raw.send(SWITCHED).await;
        raw.rest().await;
    }))
    .await;
    let mut raw = tunnel(&served).await;
    served.edge.forget(&id("ione"));
    assert_eq!(raw.rest().await, "");
}

#[tokio::test]
async fn a_refused_switch_is_an_ordinary_answer() {
    let served =
        Served::one(guest(Router::new().fallback(any(async || (http::StatusCode::FORBIDDEN, "no"))))).await;
    let mut raw = served.connect().await;
    for _ in 0..2 {
        raw.send(UPGRADE).await;
        let (head, body) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert_eq!(body, "no");
    }
}

#[tokio::test]
async fn a_switch_nobody_asked_for_is_a_502() {
    let served = Served::one(raw_guest(|mut raw| async move {
        raw.head().await;
        raw.send(SWITCHED).await;
        raw.rest().await;
    }))
    .await;
    let mut raw = served.connect().await;
    raw.send("GET / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn http2_by_upgrade_and_switches_of_the_daemon_are_not_offered() {
    let served = Served::start().await;
    served.world.put("ione", public(), &[(80, mirror()), (ENVD, mirror())]);
    for (port, protocol) in [(80, "h2c"), (80, "websocket, h2c"), (ENVD, "websocket")] {
        let mut raw = served.connect().await;
        raw.send(&format!(
            "GET / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: {port}\r\n\
             connection: Upgrade, HTTP2-Settings\r\nupgrade: {protocol}\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
        ))
        .await;
        let (head, seen) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(!seen.to_ascii_lowercase().contains("upgrade") && !seen.contains("http2-settings"), "{seen}");
    }
}
