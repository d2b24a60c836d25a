//! Bodies in motion: nothing is held back, nothing is held whole, and what breaks is seen to break.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::{
    HttpClient, Served, ask, empty, full, guest, http1, http2, mirror, pieces, raw_guest, soon, until,
};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (events, source) = mpsc::channel::<&'static str>(1);
    let source = Arc::new(std::sync::Mutex::new(Some(source)));
    let app = Router::new().route(
        "/",
        get(async move || {
            let source = source.lock().unwrap().take().unwrap();
            let body = Body::from_stream(ReceiverStream::new(source).map(Ok::<_, Infallible>));
            ([("content-type", "text/event-stream")], body)
        }),
    );
    let served = Served::one(guest(app)).await;
    let response = soon(http1().request(served.request("GET", "/").body(empty()).unwrap())).await.unwrap();
    let mut body = response.into_body();
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        events.send(event).await.unwrap();
        let frame = soon(body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
    drop(events);
    assert!(soon(body.frame()).await.is_none());
}

#[tokio::test]
async fn request_pieces_arrive_one_by_one() {
    let (seen, mut arrived) = mpsc::unbounded_channel::<Bytes>();
    let app = Router::new().route(
        "/",
        post(move |body: Body| {
            let seen = seen.clone();
            async move {
                let mut body = body.into_data_stream();
                while let Some(Ok(piece)) = body.next().await {
                    seen.send(piece).unwrap();
                }
            }
        }),
    );
    let served = Served::one(guest(app)).await;
    for client in [http1(), http2()] {
        let (pieces, source) = mpsc::channel(1);
        let body =
            StreamBody::new(ReceiverStream::new(source).map(|piece| Ok(http_body::Frame::data(piece))));
        let response =
            tokio::spawn(client.request(served.request("POST", "/").body(BodyExt::boxed(body)).unwrap()));
        for piece in ["one", "two", "three"] {
            pieces.send(Bytes::from(piece)).await.unwrap();
            assert_eq!(soon(arrived.recv()).await.unwrap(), piece);
        }
        drop(pieces);
        assert_eq!(soon(response).await.unwrap().unwrap().status(), 200);
    }
}

/// Counts what it is sent; sends as many bytes as it is asked for.
fn bulk() -> Router {
    let count = async |body: Body| {
        let mut body = body.into_data_stream();
        let mut total = 0;
        while let Some(piece) = body.next().await {
            total += piece.unwrap().len();
        }
        total.to_string()
    };
    let produce = async || {
        let piece = Bytes::from(vec![b'x'; 64 << 10]);
        Body::from_stream(futures_util::stream::iter(
            (0..1600).map(move |_| Ok::<_, Infallible>(piece.clone())),
        ))
    };
    Router::new().route("/up", post(count)).route("/down", get(produce))
}

async fn download(client: &HttpClient, served: &Served) -> usize {
    let response = soon(client.request(served.request("GET", "/down").body(empty()).unwrap())).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = BodyStream::new(response.into_body());
    let mut total = 0;
    while let Some(frame) = soon(body.next()).await {
        total += frame.unwrap().into_data().unwrap().len();
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes_go_both_ways() {
    let served = Served::one(guest(bulk())).await;
    for client in [http1(), http2()] {
        assert_eq!(download(&client, &served).await, 100 * MIB);
        let body = pieces(1600, vec![b'x'; 64 << 10].into());
        let (status, total) = ask(&client, served.request("POST", "/up").body(body).unwrap()).await;
        assert_eq!((status, total), (200, (100 * MIB).to_string()));
    }
}

/// Produces without end and says how many bytes it got rid of, and whether anybody still wanted them.
fn endless() -> (std::net::SocketAddr, Arc<AtomicU64>, Arc<AtomicBool>) {
    let written = Arc::new(AtomicU64::new(0));
    let gone = Arc::new(AtomicBool::new(false));
    let addr = raw_guest({
        let (written, gone) = (Arc::clone(&written), Arc::clone(&gone));
        move |mut raw| {
            let (written, gone) = (Arc::clone(&written), Arc::clone(&gone));
            async move {
                raw.head().await;
                raw.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                let chunk = [b"10000\r\n".as_slice(), &[b'x'; 64 << 10], b"\r\n"].concat();
                while raw.0.write_all(&chunk).await.is_ok() {
                    written.fetch_add(64 << 10, Ordering::SeqCst);
                }
                gone.store(true, Ordering::SeqCst);
            }
        }
    });
    (addr, written, gone)
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_guest() {
    for client in [http1(), http2()] {
        let (addr, written, gone) = endless();
        let served = Served::one(addr).await;
        let response = soon(client.request(served.request("GET", "/").body(empty()).unwrap())).await.unwrap();
        // What is under way settles at what the sockets and one buffer hold.
        let mut last = u64::MAX;
        soon(async {
            while last != written.load(Ordering::SeqCst) {
                last = written.load(Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        })
        .await;
        assert!(last < 32 << 20, "{last} bytes were taken from the guest for a client that reads none");
        assert!(!gone.load(Ordering::SeqCst));
        // Reading goes on where it stopped, and going away ends it.
        let mut body = response.into_body();
        let mut read = 0;
        while read < 40 * MIB {
            read += soon(body.frame()).await.unwrap().unwrap().into_data().unwrap().len();
        }
        drop(body);
        until(|| gone.load(Ordering::SeqCst)).await;
    }
}

/// Says when a request arrived and when its connection was closed, and never answers or never ends.
fn silent(answer: &'static str) -> (std::net::SocketAddr, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let arrived = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(AtomicUsize::new(0));
    let addr = raw_guest({
        let (arrived, closed) = (Arc::clone(&arrived), Arc::clone(&closed));
        move |mut raw| {
            let (arrived, closed) = (Arc::clone(&arrived), Arc::clone(&closed));
            async move {
                raw.head().await;
                raw.send(answer).await;
                arrived.fetch_add(1, Ordering::SeqCst);
                raw.rest().await;
                closed.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (addr, arrived, closed)
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_guests_work() {
    let silent_after = [
        "",
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ];
    for (client, answer) in silent_after.iter().flat_map(|answer| [(http1(), answer), (http2(), answer)]) {
        let (addr, arrived, closed) = silent(answer);
        let served = Served::one(addr).await;
        let request = client.request(served.request("GET", "/").body(empty()).unwrap());
        let waiting = tokio::spawn(async move {
            let response = request.await.unwrap();
            response.into_body().collect().await.map(|_| ())
        });
        until(|| arrived.load(Ordering::SeqCst) == 1).await;
        assert_eq!(closed.load(Ordering::SeqCst), 0);
        waiting.abort();
        drop(client);
        until(|| closed.load(Ordering::SeqCst) == 1).await;
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_is_seen_to_break_off() {
    let (seen, mut outcome) = mpsc::unbounded_channel();
    let app = Router::new().route(
        "/",
        post(move |body: Body| {
            let seen = seen.clone();
            async move { seen.send(body.collect().await.is_ok()).unwrap() }
        }),
    );
    let served = Served::one(guest(app)).await;
    for framing in ["content-length: 100\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"] {
        let mut raw = served.connect().await;
        raw.send(&format!(
            "POST / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n{framing}"
        ))
        .await;
        drop(raw);
        assert_ne!(soon(outcome.recv()).await, Some(true), "the guest took half an upload for a whole one");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_a_success() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let served = Served::one(raw_guest(move |mut raw| async move {
            raw.head().await;
            raw.send(answer).await;
        }))
        .await;
        for client in [http1(), http2()] {
            let response = soon(client.request(served.request("GET", "/").body(empty()).unwrap())).await;
            // The break may overtake the head.
            if let Ok(response) = response {
                assert!(soon(response.into_body().collect()).await.is_err(), "{answer:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_length_ends_with_its_connection() {
    let served = Served::one(raw_guest(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.0 200 OK\r\n\r\nall of it").await;
    }))
    .await;
    for client in [http1(), http2()] {
        let request = served.request("GET", "/").body(empty()).unwrap();
        assert_eq!(ask(&client, request).await, (200, "all of it".to_owned()));
    }
}

#[tokio::test]
async fn an_early_answer_to_an_upload_arrives() {
    // Answers after the head, reads a little, closes: what a daemon does whose disk is full.
    let served = Served::one(raw_guest(|mut raw| async move {
        raw.head().await;
        raw.send("HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfull")
            .await;
        raw.exactly(64 << 10).await;
    }))
    .await;
    let client = http1();
    for _ in 0..5 {
        let body = pieces(320, vec![b'x'; 64 << 10].into());
        let answer = ask(&client, served.request("POST", "/").body(body).unwrap()).await;
        assert_eq!(answer, (507, "full".to_owned()));
    }
}

#[tokio::test]
async fn connections_to_the_guest_are_used_again() {
    let served = Served::one(mirror()).await;
    for client in [http1(), http2()] {
        for _ in 0..20 {
            let request = served.request("GET", "/").body(empty()).unwrap();
            assert_eq!(ask(&client, request).await.0, 200);
        }
    }
    assert_eq!(served.world.connects(), 1);
}

#[tokio::test]
async fn a_connection_that_the_guest_closed_meanwhile_is_replaced() {
    // Serves two requests per connection, then hangs up when the third arrives, or just before.
    for politely in [true, false] {
        let served = Served::one(raw_guest(move |mut raw| async move {
            for _ in 0..2 {
                raw.head().await;
                raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
            if !politely {
                raw.try_head().await;
            }
        }))
        .await;
        let client = http1();
        for _ in 0..10 {
            let request = served.request("GET", "/").body(empty()).unwrap();
            assert_eq!(ask(&client, request).await, (200, "ok".to_owned()));
        }
        assert_eq!(served.world.connects(), 5);
    }
}

#[tokio::test]
async fn what_may_have_been_done_is_not_done_twice() {
    let requests = Arc::new(AtomicUsize::new(0));
    let served = Served::one(raw_guest({
        let requests = Arc::clone(&requests);
        move |mut raw| {
            let requests = Arc::clone(&requests);
            async move {
                raw.head().await;
                raw.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                // Takes the next one and dies over it.
                if raw.try_head().await.is_some() {
                    requests.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }))
    .await;
    let client = http1();
    assert_eq!(ask(&client, served.request("GET", "/").body(empty()).unwrap()).await.0, 200);
    let (status, _) = ask(&client, served.request("POST", "/").body(full("once")).unwrap()).await;
    assert_eq!(status, 502);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}
