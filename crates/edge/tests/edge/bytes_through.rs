//! What a guest gets to see of a request, and a client of an answer.

use axum::Router;
use axum::routing::{any, get};
use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use crate::harness::{Served, ask, empty, full, guest, http1, http2, mirror, pieces, raw_guest, soon, text};

#[tokio::test]
async fn target_and_headers_arrive_as_they_were_sent() {
    let served = Served::one(mirror()).await;
    let mut raw = served.connect().await;
    let target = "/a//b/../c%2Fd%20e/%C3%BC;v=1?q=a+b%26c&&x=%zz&empty=#";
    let target = target.trim_end_matches('#');
    raw.send(&format!(
        "GET {target} HTTP/1.1\r\nhost: some.host:81\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\
         x-forwarded-for: 9.9.9.9\r\ncookie: a=1\r\nx-twice: 1\r\nx-twice: 2\r\n\r\n"
    ))
    .await;
    let (_, seen) = raw.response().await;
    assert_eq!(seen.lines().next().unwrap(), format!("GET {target} HTTP/1.1"));
    for line in [
        "host: some.host:81",
        "x-forwarded-for: 9.9.9.9, 127.0.0.1",
        "x-forwarded-proto: http",
        "x-forwarded-host: some.host:81",
        "cookie: a=1",
        "x-twice: 1",
        "x-twice: 2",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in {seen}");
    }
    assert!(!seen.contains("transfer-encoding") && !seen.contains("content-length"), "{seen}");
}

#[tokio::test]
async fn http2_authority_becomes_the_host() {
    let served = Served::one(mirror()).await;
    let request = served.request("GET", "/x").body(empty()).unwrap();
    let (_, seen) = ask(&http2(), request).await;
    assert!(seen.starts_with("GET /x HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: {}\r\n", served.addr)), "{seen}");
}

#[tokio::test]
async fn bodies_arrive_with_every_method_and_framing() {
    let echo = |body: Bytes| async move { body };
    let served = Served::one(guest(Router::new().fallback(any(echo)))).await;
    for client in [http1(), http2()] {
        for method in ["POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS"] {
            let known = served.request(method, "/").body(full("hello")).unwrap();
            assert_eq!(ask(&client, known).await, (200, "hello".to_owned()), "{method}");
            let none = served.request(method, "/").body(empty()).unwrap();
            assert_eq!(ask(&client, none).await, (200, String::new()), "{method}");
        }
        let unknown = served.request("POST", "/").body(pieces(3, "abc".into())).unwrap();
        assert_eq!(ask(&client, unknown).await, (200, "abcabcabc".to_owned()));
    }
    let mut raw = served.connect().await;
    raw.send("GET / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n").await;
    assert_eq!(raw.response().await.1, "abc");
}

#[tokio::test]
async fn a_client_that_waits_for_a_go_ahead_gets_one() {
    let echo = |body: Bytes| async move { body };
    let served = Served::one(guest(Router::new().fallback(any(echo)))).await;
    let mut raw = served.connect().await;
    raw.send("POST / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 100 "));
    raw.send("hello").await;
    assert_eq!(raw.response().await.1, "hello");
}

#[tokio::test]
async fn answers_without_a_body_stay_without_one() {
    let app = Router::new()
        .route("/text", get(async || "hello"))
        .route("/none", get(async || http::StatusCode::NO_CONTENT))
        .route("/empty", get(async || ""));
    let served = Served::one(guest(app)).await;
    let mut raw = served.connect().await;
    let mut head_of = async |line: &str| {
        raw.send(&format!(
            "{line} HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n"
        ))
        .await;
        raw.head().await.to_ascii_lowercase()
    };
    let head = head_of("HEAD /text").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 5"), "{head}");
    let head = head_of("GET /none").await;
    assert!(head.starts_with("http/1.1 204") && !head.contains("content-length"), "{head}");
    let head = head_of("GET /empty").await;
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 0"), "{head}");
}

#[tokio::test]
async fn a_head_answer_does_not_gain_a_length() {
    let chunked = raw_guest(|mut raw| async move {
        while raw.try_head().await.is_some() {
            raw.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
        }
    });
    let served = Served::one(chunked).await;
    let mut raw = served.connect().await;
    raw.send("HEAD / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n").await;
    let head = raw.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && !head.contains("content-length"), "{head}");
}

#[tokio::test]
async fn trailers_pass_to_clients_that_take_them() {
    let app = Router::new().route(
        "/",
        get(async || {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            let frames =
                [Ok::<_, std::io::Error>(Frame::data(Bytes::from("data"))), Ok(Frame::trailers(trailers))];
            let body = axum::body::Body::new(StreamBody::new(futures_util::stream::iter(frames)));
            http::Response::builder().header("trailer", "x-sum").body(body).unwrap()
        }),
    );
    let served = Served::one(guest(app)).await;
    for client in [http1(), http2()] {
        let request = served.request("GET", "/").header("te", "trailers").body(empty()).unwrap();
        let response = soon(client.request(request)).await.unwrap();
        let body = soon(response.into_body().collect()).await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "42");
        assert_eq!(body.to_bytes(), "data");
    }
}

#[tokio::test]
async fn large_headers_pass_and_larger_ones_are_refused() {
    let length = async |headers: HeaderMap| headers["x-large"].len().to_string();
    let back = async |headers: HeaderMap| ([("x-back", headers["x-large"].clone())], "");
    let served =
        Served::one(guest(Router::new().route("/length", get(length)).route("/back", get(back)))).await;
    let value = "v".repeat(60 << 10);
    for client in [http1(), http2()] {
        let request = served.request("GET", "/length").header("x-large", &value).body(empty()).unwrap();
        assert_eq!(ask(&client, request).await, (200, value.len().to_string()));
    }
    let request = served.request("GET", "/back").header("x-large", &value).body(empty()).unwrap();
    let response = soon(http1().request(request)).await.unwrap();
    assert_eq!(response.headers()["x-back"].len(), value.len());

    let mut raw = served.connect().await;
    let value = "v".repeat(200 << 10);
    raw.send(&format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {value}\r\n")).await;
    assert!(raw.head().await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn an_old_client_gets_an_old_answer() {
    let served = Served::one(guest(Router::new().fallback(any(async || "ok")))).await;
    let mut raw = served.connect().await;
    raw.send("GET / HTTP/1.0\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n").await;
    let all = raw.rest().await;
    assert!(all.starts_with("HTTP/1.0 200 OK\r\n") && all.ends_with("\r\n\r\nok"), "{all}");
}

#[tokio::test]
async fn status_lines_and_unknown_statuses_pass() {
    let odd = raw_guest(|mut raw| async move {
        while raw.try_head().await.is_some() {
            raw.send("HTTP/1.1 599 Very Odd\r\ncontent-length: 2\r\nx-a: 1\r\nconnection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\r\nno").await;
        }
    });
    let served = Served::one(odd).await;
    let request = served.request("GET", "/").body(empty()).unwrap();
    let response = soon(http1().request(request)).await.unwrap();
    assert_eq!(response.status(), 599);
    assert!(response.headers().contains_key("x-a"));
    assert!(!response.headers().contains_key("x-hop") && !response.headers().contains_key("keep-alive"));
    assert_eq!(text(response).await, "no");
}
