//! The forms that requests and answers may have, apart from what they mean.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use buffa::Message as _;
use common::{Daemon, envelope};
use envd_proto::process::__buffa::oneof::process_event::Event;
use envd_proto::process::process_event::data_event::Output;
use envd_proto::process::process_selector::Selector;
use envd_proto::process::{
    ListRequest, ListResponse, ProcessConfig, ProcessSelector, SendSignalRequest, Signal, StartRequest,
    StartResponse,
};
use serde_json::json;

#[test]
fn the_binary_form_says_the_same() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let directory = tempfile::tempdir().unwrap();
    let printed = directory.path().join("printed");
    let process = ProcessConfig {
        cmd: "sh".into(),
        args: vec!["-c".into(), format!("echo hello; touch {}; exec sleep 100", printed.display())],
        cwd: Some("/".into()),
        ..ProcessConfig::default()
    };
    let request = StartRequest {
        process: process.clone().into(),
        tag: Some("binary".into()),
        stdin: Some(false),
        ..StartRequest::default()
    };
    let daemon_client = client.clone();
    // The stream ends when the process is killed, so it is read by a thread of its own.
    let stream = std::thread::spawn(move || {
        let body = envelope(&request.encode_to_vec());
        daemon_client.raw("/process.Process/Start", "application/connect+proto", &body)
    });
    let list = || {
        let answer =
            client.raw("/process.Process/List", "application/proto", &ListRequest {}.encode_to_vec());
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/proto")));
        ListResponse::decode_from_slice(&answer.body).unwrap().processes
    };
    common::eventually("the process is listed", || !list().is_empty());
    let running = list();
    assert_eq!(running[0].config.as_option(), Some(&process));
    assert_eq!(running[0].tag.as_deref(), Some("binary"));
    common::eventually("it has printed something", || printed.exists());
    let kill = SendSignalRequest {
        process: ProcessSelector { selector: Some(Selector::Pid(running[0].pid)) }.into(),
        signal: Signal::SIGNAL_SIGKILL.into(),
    };
    let answer = client.raw("/process.Process/SendSignal", "application/proto", &kill.encode_to_vec());
    assert_eq!((answer.status, answer.body.len()), (200, 0));

    let answer = stream.join().unwrap();
    assert_eq!(answer.header("content-type"), Some("application/connect+proto"));
    let mut rest = &answer.body[..];
    let mut events = Vec::new();
    while rest[0] == 0 {
        let length = usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap();
        let response = StartResponse::decode_from_slice(&rest[5..5 + length]).unwrap();
        events.push(response.event.into_option().unwrap().event.unwrap());
        rest = &rest[5 + length..];
    }
    assert_eq!(rest, b"\x02\0\0\0\x02{}");
    let [Event::Start(start), Event::Data(data), Event::End(end)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(start.pid, running[0].pid);
    assert_eq!(data.output, Some(Output::Stdout(b"hello\n".to_vec())));
    assert_eq!((end.exit_code, end.exited, end.status.as_str()), (-1, false, "signal: killed"));
}

#[test]
fn json_is_read_generously() {
    let daemon = Daemon::start();
    let client = daemon.client();
    // Unknown fields, snake case, numbers for enums, base64 without padding.
    assert_eq!(client.call("List", &json!({"future": {"field": [1]}})), Ok(json!({})));
    let mut events = client.start(&json!({"process": {"cmd": "cat"}, "unknown": 1}));
    let select = json!({"pid": events.pid});
    client.call("SendInput", &json!({"process": select, "input": {"stdin": "YQ"}})).unwrap();
    assert_eq!(events.until("a"), "a");
    client.call("SendSignal", &json!({"process": select, "signal": 9})).unwrap();
    assert_eq!(events.finish().code(), -1);
}

#[test]
fn what_is_not_a_request_is_refused() {
    let daemon = Daemon::start();
    let client = daemon.client();
    assert_eq!(client.http("GET", "/process.Process/List", "").status, 405);
    assert_eq!(client.http("GET", "/process.Process/List", "").header("allow"), Some("POST"));
    assert_eq!(client.raw("/process.Process/List", "text/plain", b"{}").status, 415);
    assert_eq!(client.raw("/process.Process/List", "application/json", b"{").status, 400);
    let unknown = client.raw("/process.Process/Nonsense", "application/json", b"{}");
    assert_eq!((unknown.status, unknown.text()), (404, "404 page not found\n"));
    assert_eq!(client.http("GET", "/nonsense", "").status, 404);
    let answer = client.raw("/process.Process/Start", "application/connect+json", b"\0\0\0\0\x01{");
    assert!(answer.status == 200 && answer.text().contains("invalid_argument"), "{answer:?}");
}

#[test]
fn browsers_may_ask_from_anywhere() {
    let daemon = Daemon::start();
    daemon.client().http("POST", "/init", r#"{"accessToken":"t"}"#);
    let preflight = daemon
        .client()
        .header("origin", "https://example.com")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "x-access-token,content-type")
        .http("OPTIONS", "/process.Process/List", "");
    assert_eq!(preflight.status, 204, "no token is needed to ask");
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(preflight.header("access-control-allow-headers"), Some("x-access-token,content-type"));
    assert_eq!(preflight.header("access-control-max-age"), Some("7200"));
    // A refusal is readable, too.
    let refused = daemon.client().header("origin", "https://example.com").http("GET", "/envs", "");
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("*")));
    assert!(refused.header("access-control-expose-headers").unwrap().contains("Content-Encoding"));
}
