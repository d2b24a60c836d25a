//! What clients of E2B rely on and no other file of tests asks for; and what its daemon gets wrong and this one must not.
//! The table of all of it is in ACCEPTANCE.md.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Daemon, Event, envelope, shell};
use serde_json::{Value, json};

#[test]
fn a_command_in_the_background_is_listed_and_killed_from_elsewhere() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let begun = client.start(&json!({
        "process": {"cmd": "/bin/bash", "args": ["-l", "-c", "cd / && exec sleep 100"]}, "stdin": false,
    }));
    let list = || client.call("List", &json!({})).unwrap();
    let listed = list()["processes"].as_array().unwrap().clone();
    assert_eq!((listed.len(), &listed[0]["pid"]), (1, &json!(begun.pid)));
    begun.disconnect();
    let pid = listed[0]["pid"].clone();
    let mut joined = daemon.client().stream("Connect", &json!({"process": {"pid": pid}}));
    assert!(matches!(joined.next(), Event::Start(_)));
    client.call("SendSignal", &json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})).unwrap();
    let outcome = joined.finish();
    assert_eq!((outcome.error, outcome.end.unwrap()["status"].as_str()), (None, Some("signal: killed")));
    // Whoever saw the end does not find it in a list.
    assert_eq!(list(), json!({}));
}

#[test]
fn who_reads_without_input_fails() {
    let outcome = Daemon::start().client().start(&shell("read -r line")).finish();
    assert_eq!(outcome.code(), 1);
}

#[test]
fn the_first_bytes_of_a_terminal_are_never_lost() {
    let daemon = Daemon::start();
    for _ in 0..30 {
        let request = json!({
            "process": {"cmd": "/bin/printf", "args": ["first"]}, "pty": {"size": {"cols": 80, "rows": 24}},
        });
        assert_eq!(daemon.client().start(&request).finish().pty, b"first");
    }
}

#[test]
fn signs_of_life_that_make_no_sense_harm_nobody() {
    let daemon = Daemon::start();
    for seconds in ["0", "-1", "-9223372036854775808", "9223372036854775807", "99999999999999999999", "x", ""]
    {
        let client = daemon.client().header("keepalive-ping-interval", seconds);
        assert_eq!(client.run("echo on").out(), "on\n", "{seconds:?}");
        let directory = tempfile::tempdir().unwrap();
        let message = json!({"path": directory.path().to_str().unwrap()}).to_string();
        // It has a deadline, so that its end comes.
        let answer = client.header("connect-timeout-ms", "50").raw(
            "/filesystem.Filesystem/WatchDir",
            "application/connect+json",
            &envelope(message.as_bytes()),
        );
        assert!(answer.text().contains("start") && answer.text().contains("deadline_exceeded"), "{answer:?}");
    }
    assert_eq!(daemon.client().http("GET", "/health", "").status, 204);
}

#[test]
fn a_name_that_is_used_again_means_the_new_one() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let start = |command: &str| {
        let mut request = shell(command);
        request["tag"] = json!("name");
        client.start(&request)
    };
    let select = json!({"process": {"tag": "name"}});
    assert_eq!(start("exit 3").finish().code(), 3);
    assert_eq!(client.stream("Connect", &select).finish().code(), 3, "it is kept for who comes late");
    let second = start("exec sleep 100");
    let mut joined = client.stream("Connect", &select);
    assert_eq!(joined.next(), Event::Start(second.pid));
    client.call("SendSignal", &json!({"process": {"tag": "name"}, "signal": 9})).unwrap();
    assert_eq!(joined.finish().code(), -1);
    assert_eq!(client.stream("Connect", &select).finish().code(), -1, "and not what was before");
}

#[test]
fn a_process_that_was_killed_is_not_found_however_fast_one_asks() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for _ in 0..20 {
        let events = client.start(&json!({"process": {"cmd": "sleep", "args": ["100"]}, "stdin": false}));
        let kill = json!({"process": {"pid": events.pid}, "signal": 9});
        client.call("SendSignal", &kill).unwrap();
        // It may be ending or have ended: either way, an SDK understands.
        let again = client.call("SendSignal", &kill);
        assert!(again == Ok(json!({})) || again == Err("not_found".into()), "{again:?}");
        events.finish();
        assert_eq!(client.call("SendSignal", &kill), Err("not_found".into()));
    }
}

#[test]
fn there_is_no_live_upgrade() {
    let daemon = Daemon::start();
    for path in ["/upgrade", "/upgrade/", "/snapshot", "/files/compose/x"] {
        assert_eq!(daemon.client().http("POST", path, "{}").status, 404, "{path}");
    }
    assert_eq!(daemon.client().http("GET", "/files/compose", "").status, 405);
}

#[test]
fn every_answer_to_init_names_the_version() {
    let daemon = Daemon::start();
    let init = |body: &Value| daemon.client().http("POST", "/init", &body.to_string());
    for (body, status) in
        [(json!({"accessToken": "a"}), 204), (json!({"accessToken": "b"}), 401), (json!([]), 400)]
    {
        let answer = init(&body);
        assert_eq!((answer.status, answer.header("x-envd-version")), (status, Some("0.6.13")), "{answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let answer = init(&json!({"accessToken": "b"}));
    assert_eq!(answer.text(), "access token validation failed");
    // Longer than anything that the host has to say.
    assert_eq!(init(&json!({"accessToken": "x".repeat(4 << 20)})).status, 413);
}
