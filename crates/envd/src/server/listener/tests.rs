use std::net::SocketAddr;

use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::super::moments::Moments;
use super::*;

const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 22));
const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A connection that is served as if it came from there.
async fn connect(routes: &Router, peer: IpAddr, moments: &Moments) -> TcpStream {
    let listener = bind(0).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (stream, peer) = (accepted.unwrap().0, Peer(peer));
    tokio::spawn(connection(stream, peer, routes.clone(), Tunnels::of(true), moments.of(peer.0)));
    client.unwrap()
}

/// Everything that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    text
}

#[tokio::test]
async fn connections_from_before_a_resume_end() {
    let moments = Moments::default();
    let resume = moments.resumes.clone();
    let routes = Router::new()
        .route("/quick", get(|| async { "quick" }))
        .route("/never", get(std::future::pending::<String>))
        .route("/resume", get(|| async move { resume.send_modify(|resumes| *resumes += 1) }));
    let mut idle = connect(&routes, OUTSIDE, &moments).await;
    idle.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 512];
    assert!(idle.read(&mut answer).await.unwrap() > 0);
    let mut busy = connect(&routes, OUTSIDE, &moments).await;
    busy.write_all(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut half = connect(&routes, OUTSIDE, &moments).await;
    half.write_all(b"GET /quick HT").await.unwrap();
    let mut messenger = connect(&routes, OUTSIDE, &moments).await;
    let mut local = connect(&routes, INSIDE, &moments).await;
    // So that all of them are being served.
    tokio::time::sleep(Duration::from_millis(50)).await;

    let begin = std::time::Instant::now();
    messenger.write_all(b"GET /resume HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(rest(&mut messenger).await.starts_with("HTTP/1.1 200"));
    assert_eq!(rest(&mut idle).await, "");
    assert!(begin.elapsed() < RESUME_GRACE, "{:?}", begin.elapsed());
    let (busy, half) = tokio::join!(rest(&mut busy), rest(&mut half));
    assert_eq!((busy.as_str(), half.as_str()), ("", ""));
    assert!(begin.elapsed() < RESUME_GRACE + Duration::from_secs(2), "{:?}", begin.elapsed());

    local.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut local).await.ends_with("quick"));
    let mut later = connect(&routes, OUTSIDE, &moments).await;
    later.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut later).await.ends_with("quick"));
}

#[tokio::test]
async fn a_rest_closes_what_nobody_uses() {
    let moments = Moments::default();
    let (go, gone) = watch::channel(false);
    let routes = Router::new().route("/quick", get(|| async { "quick" })).route(
        "/slow",
        get(|| async move {
            let _ = gone.clone().wait_for(|gone| *gone).await;
            "slow"
        }),
    );
    let ask = async |path: &str, peer: IpAddr| {
        let mut stream = connect(&routes, peer, &moments).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    };
    let answered = async |path: &str, peer: IpAddr| {
        let mut stream = ask(path, peer).await;
        assert!(stream.read(&mut [0; 512]).await.unwrap() > 0);
        stream
    };
    let mut idle = answered("/quick", OUTSIDE).await;
    let mut local = answered("/quick", INSIDE).await;
    let mut busy = ask("/slow", OUTSIDE).await;
    tokio::time::pause();
    tokio::time::advance(IDLE_AT_REST).await;
    tokio::time::resume();
    let mut fresh = answered("/quick", OUTSIDE).await;
    moments.rests.send_modify(|rests| *rests += 1);
    assert_eq!(rest(&mut idle).await, "");
    for stream in [&mut local, &mut fresh] {
        stream.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(rest(stream).await.ends_with("quick"));
    }
    go.send_replace(true);
    busy.write_all(b"GET /quick HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let answers = rest(&mut busy).await;
    assert!(answers.contains("slow") && answers.ends_with("quick"), "{answers}");
}

#[tokio::test]
async fn tunnels_from_before_a_resume_end_on_both_sides() {
    let moments = Moments::default();
    let service = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = service.local_addr().unwrap().port();
    for (peer, ends) in [(OUTSIDE, true), (INSIDE, false)] {
        let mut client = connect(&Router::new(), peer, &moments).await;
        loopback::ask(&mut client, model::GuestPort::new(port).unwrap()).await.unwrap();
        let (mut served, _) = service.accept().await.unwrap();
        client.write_all(b"?").await.unwrap();
        assert_eq!(served.read_u8().await.unwrap(), b'?');
        moments.rests.send_modify(|rests| *rests += 1);
        moments.resumes.send_modify(|resumes| *resumes += 1);
        if ends {
            assert_eq!((rest(&mut client).await, rest(&mut served).await), (String::new(), String::new()));
        } else {
            served.write_all(b"!").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'!');
        }
    }
}
