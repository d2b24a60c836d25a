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

/// The guest daemon leads whoever has our address on to any port of the guest: that is us, for nobody else.
#[tokio::test]
async fn connect_is_not_forwarded() {
    let served = Served::start().await;
    served.world.put("ione", public(), &[(80, mirror()), (ENVD, mirror())]);
    for port in [80, ENVD] {
        let routed = format!("e2b-sandbox-id: ione\r\ne2b-sandbox-port: {port}\r\n");
        for (target, headers) in [
            ("localhost:3000", format!("host: x\r\n{routed}")),
            ("10.0.0.1:22", format!("host: x\r\n{routed}")),
            ("http://localhost:3000/", format!("host: x\r\n{routed}")),
            ("/", format!("host: x\r\n{routed}")),
            ("localhost:3000", format!("host: {port}-ione.sbx.test\r\n{routed}")),
            (&format!("{port}-ione.sbx.test:3000"), "host: x\r\n".to_owned()),
            ("localhost:3000", format!("host: x\r\n{routed}connection: upgrade\r\nupgrade: websocket\r\n")),
            ("localhost:3000", format!("host: x\r\n{routed}content-length: 0\r\n")),
        ] {
            let mut raw = served.connect().await;
            raw.send(&format!("CONNECT {target} HTTP/1.1\r\n{headers}\r\n")).await;
            let (head, body) = raw.response().await;
            // A target of another form may be refused before anybody looks at the method.
            let refused = head.starts_with("HTTP/1.1 405 ") || head.starts_with("HTTP/1.1 400 ");
            assert!(refused && !body.contains("CONNECT"), "{target} {headers} {head} {body}");
        }
        let client = http2();
        let request = Request::connect(served.url("")).body(empty()).unwrap();
        let request = to_h2_connect(request, port);
        assert_eq!(ask(&client, request).await.0, 405);
    }
    assert_eq!(served.world.connects(), 0);
}

fn to_h2_connect(mut request: Request<crate::harness::Sent>, port: u16) -> Request<crate::harness::Sent> {
    request.headers_mut().insert("e2b-sandbox-id", "ione".parse().unwrap());
    request.headers_mut().insert("e2b-sandbox-port", port.into());
    request
}

#[tokio::test]
async fn nothing_becomes_a_connect_on_the_way() {
    let served = Served::start().await;
    served.world.put("ione", public(), &[(ENVD, mirror())]);
    let routed = format!("host: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: {ENVD}\r\n");
    for (line, headers, seen) in [
        // Methods are told apart by case.
        ("connect /localhost:3000 HTTP/1.1", "", "connect /localhost:3000 HTTP/1.1"),
        ("POST /x HTTP/1.1", "x-http-method-override: CONNECT\r\ncontent-length: 0\r\n", "POST /x HTTP/1.1"),
        ("GET http://localhost:3000/x HTTP/1.1", "", "GET /x HTTP/1.1"),
        ("GET /x HTTP/1.1", "connection: upgrade\r\nupgrade: tcp\r\n", "GET /x HTTP/1.1"),
    ] {
        let mut raw = served.connect().await;
        raw.send(&format!("{line}\r\n{routed}{headers}\r\n")).await;
        let (head, body) = raw.response().await;
        assert!(head.starts_with("HTTP/1.1 200 ") && body.starts_with(seen), "{line} {head} {body}");
        assert!(!body.to_ascii_lowercase().contains("upgrade:"), "{body}");
    }
}

/// What follows a refused `CONNECT` is a request as any other, or nothing.
#[tokio::test]
async fn a_refused_connect_opens_nothing() {
    let served = Served::start().await;
    served.world.put("ione", public(), &[(ENVD, mirror())]);
    let routed = format!("host: x\r\ne2b-sandbox-id: ione\r\ne2b-sandbox-port: {ENVD}\r\n");
    let mut raw = served.connect().await;
    raw.send(&format!(
        "CONNECT localhost:3000 HTTP/1.1\r\n{routed}\r\nCONNECT localhost:3000 HTTP/1.1\r\n{routed}\r\n\
         POST /init HTTP/1.1\r\n{routed}connection: close\r\ncontent-length: 0\r\n\r\n"
    ))
    .await;
    let all = raw.rest().await;
    assert!(all.starts_with("HTTP/1.1 405 ") && !all.contains("HTTP/1.1 2"), "{all}");
    assert_eq!(served.world.connects(), 0);
}
