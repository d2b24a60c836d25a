//! Which requests reach which sandbox.

use axum::Router;
use axum::routing::any;
use edge::EdgeConfig;
use http::Request;
use model::NetworkPolicy;

use crate::harness::{Served, ask, empty, full, guest, http1, http2, public, raw_guest, to};

fn named(name: &'static str) -> std::net::SocketAddr {
    guest(Router::new().fallback(any(move || async move { name })))
}

#[tokio::test]
async fn headers_pick_sandbox_and_port_over_both_protocols() {
    let served = Served::start().await;
    served.world.put("ia", public(), &[(80, named("a80")), (81, named("a81"))]);
    served.world.put("ib", public(), &[(80, named("b80"))]);
    for client in [http1(), http2()] {
        for (id, port, want) in [("ia", 80, "a80"), ("ia", 81, "a81"), ("ib", 80, "b80")] {
            let request = to(Request::get(served.url("/x")), id, port).body(empty()).unwrap();
            assert_eq!(ask(&client, request).await, (200, want.to_owned()));
        }
        let request = Request::get(served.url("/health?x=1")).body(empty()).unwrap();
        let (status, body) = ask(&client, request).await;
        assert_eq!(status, 200);
        assert!(body.starts_with("api GET ") && body.ends_with("/health?x=1"), "{body}");
    }
}

#[tokio::test]
async fn hosts_pick_sandbox_and_port() {
    let served = Served::with(EdgeConfig { domain: Some("sbx.test".to_owned()), ..Default::default() }).await;
    served.world.put("ia", public(), &[(80, named("a80"))]);
    let client = http1();
    for (host, sandbox) in [
        ("80-ia.sbx.test", true),
        ("80-ia.sbx.test:3000", true),
        ("80-ia-6532622b.SBX.test", true),
        ("80-ia.other.test", false),
        ("api.sbx.test", false),
    ] {
        let request = Request::get(served.url("/")).header("host", host).body(empty()).unwrap();
        let (_, body) = ask(&client, request).await;
        assert_eq!(body == "a80", sandbox, "{host}: {body}");
        assert_eq!(body.starts_with("api "), !sandbox, "{host}: {body}");
    }
}

#[tokio::test]
async fn an_absolute_target_counts_before_the_host_header() {
    let served = Served::start().await;
    served.world.put("ia", public(), &[(80, named("a80"))]);
    let mut raw = served.connect().await;
    raw.send("GET http://80-ia.sbx.test/x HTTP/1.1\r\nhost: api.sbx.test\r\n\r\n").await;
    let (_, body) = raw.response().await;
    assert_eq!(body, "a80");
}

#[tokio::test]
async fn claims_are_those_of_routing() {
    let served = Served::start().await;
    let claims =
        |request: http::request::Builder| served.edge.claims(&request.body(()).unwrap().into_parts().0);
    assert!(claims(to(Request::get("/"), "ia", 80)));
    assert!(claims(Request::get("/").header("host", "80-ia.x.y")));
    assert!(claims(Request::get("/").header("e2b-sandbox-id", "ia")));
    assert!(!claims(Request::get("/").header("host", "127.0.0.1:3000")));
}

/// A guest daemon that names itself.
fn daemon(name: &'static str) -> std::net::SocketAddr {
    raw_guest(move |mut raw| async move {
        while let Some(head) = raw.try_head().await {
            let body = format!("{name} {}", head.lines().next().unwrap());
            raw.send(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        }
    })
}

#[tokio::test]
async fn a_signed_url_without_a_sandbox_finds_its_own() {
    use base64::Engine as _;
    use sha2::Digest as _;

    let served = Served::start().await;
    for (name, token) in [("ia", "token-a"), ("ib", "token-b")] {
        let mut target = public();
        target.envd_token = Some(model::Secret::new(token));
        served.world.put(name, target, &[(model::ENVD_PORT, daemon(if name == "ia" { "a" } else { "b" }))]);
    }
    let sign = |text: &str| {
        let digest = sha2::Sha256::digest(text);
        let encoded = base64::engine::general_purpose::STANDARD_NO_PAD.encode(digest);
        format!("v1_{}", encoded.replace('+', "%2B").replace('/', "%2F"))
    };
    let client = http1();

    let read = sign("/tmp/x:read:user:token-b:1893456000");
    let path =
        format!("/files?path=%2Ftmp%2Fx&username=user&signature={read}&signature_expiration=1893456000");
    let request = Request::get(served.url(&path)).body(empty()).unwrap();
    assert_eq!(ask(&client, request).await, (200, format!("b GET {path} HTTP/1.1")));

    let write = sign("x:write::token-a");
    let path = format!("/files?path=x&signature={write}");
    let request = Request::post(served.url(&path)).body(full("")).unwrap();
    assert_eq!(ask(&client, request).await, (200, format!("a POST {path} HTTP/1.1")));

    // Signed by nobody here, and not signed at all: the API's.
    for path in [format!("/files?path=x&signature={}", sign("x:read::token-c")), "/files?path=x".to_owned()] {
        let request = Request::get(served.url(&path)).body(empty()).unwrap();
        assert!(ask(&client, request).await.1.starts_with("api GET "), "{path}");
    }
}

#[tokio::test]
async fn a_masked_host_is_what_the_guest_sees() {
    let served = Served::start().await;
    let mut target = public();
    let mask = Some("custom-host.example.com:${PORT}".to_owned());
    target.policy = NetworkPolicy { mask_request_host: mask, ..target.policy };
    let echo = |headers: http::HeaderMap| async move {
        let get = |name: &str| headers[name].to_str().unwrap().to_owned();
        format!("{} {}", get("host"), get("x-forwarded-host"))
    };
    served.world.put("ia", target, &[(8080, guest(Router::new().fallback(any(echo))))]);
    let request = to(Request::get(served.url("/")), "ia", 8080).body(empty()).unwrap();
    let want = format!("custom-host.example.com:8080 {}", served.addr);
    assert_eq!(ask(&http1(), request).await, (200, want));
}
