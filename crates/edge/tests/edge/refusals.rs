//! What clients are told when a request cannot be forwarded.

use std::time::Duration;

use edge::{EdgeConfig, Timeouts};
use http::Request;
use model::Secret;

use crate::harness::{
    ENVD, Served, ask, empty, full, http1, http2, id, mirror, pieces, public, raw_guest, to,
};

#[tokio::test]
async fn a_sandbox_that_is_not_there_is_a_502_with_its_id() {
    let served = Served::start().await;
    for client in [http1(), http2()] {
        let request = to(Request::get(served.url("/health")), "igone", ENVD).body(empty()).unwrap();
        let want = r#"{"sandboxId":"igone","message":"The sandbox was not found","code":502}"#;
        assert_eq!(ask(&client, request).await, (502, want.to_owned()));
    }
}

#[tokio::test]
async fn a_large_upload_to_a_dead_sandbox_still_sees_the_answer() {
    let served = Served::start().await;
    let client = http1();
    for _ in 0..3 {
        let request = to(Request::post(served.url("/files?path=x")), "igone", ENVD);
        let (status, body) =
            ask(&client, request.body(pieces(1600, vec![7; 64 << 10].into())).unwrap()).await;
        assert_eq!(status, 502);
        assert!(body.contains("The sandbox was not found"));
    }
}

#[tokio::test]
async fn a_client_that_waits_for_a_go_ahead_is_refused_without_one() {
    let served = Served::start().await;
    let mut raw = served.connect().await;
    raw.send("POST / HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: igone\r\ne2b-sandbox-port: 80\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n").await;
    let head = raw.head().await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn a_closed_port_is_a_502_with_the_port_at_once() {
    let closed = crate::harness::listen().local_addr().unwrap();
    let served = Served::start().await;
    served.world.put("ia", public(), &[(8080, closed)]);
    let request = to(Request::get(served.url("/")), "ia", 8080).body(empty()).unwrap();
    let want = r#"{"sandboxId":"ia","message":"The sandbox is running but port is not open","port":8080,"code":502}"#;
    assert_eq!(ask(&http1(), request).await, (502, want.to_owned()));
    assert_eq!(served.world.connects(), 1);
}

#[tokio::test]
async fn a_guest_that_takes_no_connection_is_a_504_in_time() {
    let timeouts = Timeouts { connect: Duration::from_millis(100), ..Default::default() };
    let served = Served::with(EdgeConfig { timeouts, ..Default::default() }).await;
    served.world.put("ia", public(), &[]);
    served.world.stuck.lock().unwrap().push(id("ia"));
    let request = to(Request::get(served.url("/")), "ia", 80).body(empty()).unwrap();
    let (status, body) = ask(&http1(), request).await;
    assert_eq!(status, 504);
    assert!(body.contains(r#""sandboxId":"ia""#) && body.contains(r#""code":504"#), "{body}");
}

#[tokio::test]
async fn a_guest_that_hangs_up_or_talks_nonsense_is_a_502() {
    let hangs_up = raw_guest(|mut raw| async move {
        raw.try_head().await;
    });
    let nonsense = raw_guest(|mut raw| async move {
        raw.try_head().await;
        raw.send("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
    });
    let served = Served::start().await;
    served.world.put("ia", public(), &[(80, hangs_up), (81, nonsense)]);
    for port in [80, 81] {
        for method in ["GET", "POST"] {
            let request = to(Request::builder().method(method).uri(served.url("/")), "ia", port);
            let (status, body) = ask(&http1(), request.body(full("x")).unwrap()).await;
            assert_eq!(status, 502, "{port} {method} {body}");
            assert!(body.contains(r#""sandboxId":"ia""#), "{body}");
        }
    }
}

#[tokio::test]
async fn half_of_the_routing_headers_is_a_400() {
    let served = Served::start().await;
    let client = http1();
    let only_id = Request::get(served.url("/")).header("E2b-Sandbox-Id", "ia").body(empty()).unwrap();
    assert_eq!(
        ask(&client, only_id).await,
        (400, r#"{"message":"Missing header: E2b-Sandbox-Port","code":400}"#.to_owned())
    );
    let only_port = Request::get(served.url("/")).header("E2b-Sandbox-Port", "80").body(empty()).unwrap();
    assert_eq!(
        ask(&client, only_port).await,
        (400, r#"{"message":"Missing header: E2b-Sandbox-Id","code":400}"#.to_owned())
    );
    let bad = to(Request::get(served.url("/")), "../../etc", 80).body(empty()).unwrap();
    assert_eq!(ask(&client, bad).await.0, 400);
}

#[tokio::test]
async fn private_ports_want_their_token_and_the_daemon_does_not() {
    let served = Served::start().await;
    let mut target = public();
    target.policy.allow_public_traffic = false;
    target.traffic_token = Some(Secret::new("secret"));
    served.world.put("ia", target.clone(), &[(80, mirror()), (ENVD, mirror())]);
    target.traffic_token = None;
    served.world.put("ib", target, &[(80, mirror())]);
    let client = http1();
    let try_with = |id: &str, port: u16, token: Option<&str>| {
        let mut request = to(Request::get(served.url("/")), id, port);
        if let Some(token) = token {
            request = request.header("e2b-traffic-access-token", token);
        }
        ask(&client, request.body(empty()).unwrap())
    };
    for (id, token) in [("ia", None), ("ia", Some("wrong")), ("ia", Some("")), ("ib", None), ("ib", Some(""))]
    {
        let (status, body) = try_with(id, 80, token).await;
        assert_eq!(status, 403, "{token:?}");
        assert!(body.contains(r#""code":403"#), "{body}");
    }
    for (port, token) in [(80, Some("secret")), (ENVD, None), (ENVD, Some("wrong"))] {
        let (status, seen) = try_with("ia", port, token).await;
        assert_eq!(status, 200);
        assert!(!seen.to_ascii_lowercase().contains("e2b-traffic-access-token"), "the guest saw {seen}");
    }
}

#[tokio::test]
async fn internal_routes_of_the_daemon_are_not_there() {
    let served = Served::start().await;
    served.world.put("ia", public(), &[(80, mirror()), (ENVD, mirror())]);
    for client in [http1(), http2()] {
        for path in [
            "/init",
            "//init",
            "/init/",
            "/%69nit",
            "/INIT",
            "/freeze?x=1",
            "/snapshot/prepare",
            "/x/../upgrade",
            "/sync",
            "/unfreeze",
            "/collapse",
            "/fsfreeze",
            "/fsthaw",
        ] {
            let request = to(Request::post(served.url(path)), "ia", ENVD).body(full("{}")).unwrap();
            let (status, body) = ask(&client, request).await;
            assert_eq!(status, 404, "{path}");
            assert!(body.contains(r#""code":404"#), "{body}");
        }
        // Another port has its own routes.
        let request = to(Request::get(served.url("/init")), "ia", 80).body(empty()).unwrap();
        assert_eq!(ask(&client, request).await.0, 200);
        let request = to(Request::get(served.url("/health")), "ia", ENVD).body(empty()).unwrap();
        assert_eq!(ask(&client, request).await.0, 200);
    }
}

#[tokio::test]
async fn connect_is_not_forwarded() {
    let served = Served::one(mirror()).await;
    let mut raw = served.connect().await;
    raw.send(
        "CONNECT 10.0.0.1:22 HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: 80\r\n\r\n",
    )
    .await;
    assert!(raw.head().await.starts_with("HTTP/1.1 405 "));
}
