//! Who may talk to the daemon, and what it is told by the host.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::{Daemon, shell};
use serde_json::{Value, json};

const REFUSED: &str =
    "unauthorized access, please provide a valid access token or method signing if supported";

#[test]
fn without_a_token_everything_is_open_and_with_one_nothing_is() {
    let daemon = Daemon::start();
    let client = daemon.client();
    assert_eq!(client.http("GET", "/envs", "").status, 200);
    assert_eq!(client.http("POST", "/init", r#"{"accessToken":"secret"}"#).status, 204);
    for client in [client.clone(), client.clone().token("wrong"), client.clone().token("")] {
        for (method, path, body) in [
            ("GET", "/envs", ""),
            ("GET", "/metrics", ""),
            ("GET", "/nonsense", ""),
            ("HEAD", "/health", ""),
            ("POST", "/process.Process/List", "{}"),
            ("POST", "/filesystem.Filesystem/Stat", "{}"),
        ] {
            let answer = client.http(method, path, body);
            assert_eq!(answer.status, 401, "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.json(), json!({"code": 401, "message": REFUSED}), "{method} {path}");
                assert_eq!(answer.header("content-type"), Some("application/json; charset=utf-8"));
            }
        }
        // Not a Connect error in a stream, but the same: clients look at the status.
        let start = common::envelope(shell("true").to_string().as_bytes());
        assert_eq!(client.raw("/process.Process/Start", "application/connect+json", &start).status, 401);
        assert_eq!(client.http("GET", "/health", "").status, 204);
    }
    let client = client.token("secret");
    assert_eq!(client.http("GET", "/envs", "").status, 200);
    assert_eq!(client.run("echo $((1 + 1))").out(), "2\n");
}

#[test]
fn only_who_holds_the_token_may_initialise_again() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let init = |body: Value| {
        let answer = client.http("POST", "/init", &body.to_string());
        assert_eq!(answer.header("x-envd-version"), Some("0.6.13"));
        answer.status
    };
    assert_eq!(init(json!({})), 204);
    assert_eq!(init(json!({"accessToken": "a", "envVars": {"X": "1"}})), 204);
    assert_eq!(init(json!({"accessToken": "b", "envVars": {"X": "2"}})), 401);
    assert_eq!(init(json!({"envVars": {"X": "2"}})), 401);
    assert_eq!(init(json!({"accessToken": null})), 401);
    assert_eq!(init(json!({"accessToken": ""})), 400);
    assert_eq!(init(json!({"accessToken": "a"})), 204);
    // The header is not what counts.
    assert_eq!(client.clone().token("a").http("POST", "/init", "{}").status, 401);
    assert_eq!(client.http("POST", "/init", "{").status, 400);
    let envs = client.clone().token("a").http("GET", "/envs", "").json();
    assert_eq!(envs, json!({"E2B_SANDBOX": "true", "X": "1"}));
}

#[test]
fn the_host_may_make_another_sandbox_of_it() {
    for (host, accepted) in [("127.0.0.1:9", true), ("127.0.0.2:9", false)] {
        let daemon = Daemon::with_args(&["-host", host]);
        let client = daemon.client();
        let init = |body: Value| client.http("POST", "/init", &body.to_string()).status;
        assert_eq!(init(json!({"accessToken": "a", "lifecycleID": "1", "envVars": {"X": "1"}})), 204);
        // The life that it is in.
        assert_eq!(init(json!({"accessToken": "b", "lifecycleID": "1"})), 401);
        assert_eq!(init(json!({"accessToken": "b"})), 401);
        let expected = if accepted { (204, 200, 401) } else { (401, 401, 200) };
        let status = init(json!({"accessToken": "b", "lifecycleID": "2", "envVars": {}}));
        let token = |token| daemon.client().token(token).http("GET", "/envs", "").status;
        assert_eq!((status, token("b"), token("a")), expected, "{host}");
    }
}

#[test]
fn variables_are_replaced_as_a_whole() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let envs = |body: Value| {
        assert_eq!(client.http("POST", "/init", &body.to_string()).status, 204);
        client.http("GET", "/envs", "").json()
    };
    assert_eq!(
        envs(json!({"envVars": {"A": "1", "B": "1"}})),
        json!({"A": "1", "B": "1", "E2B_SANDBOX": "true"})
    );
    assert_eq!(envs(json!({})), json!({"A": "1", "B": "1", "E2B_SANDBOX": "true"}));
    assert_eq!(envs(json!({"envVars": {"B": "2"}})), json!({"B": "2", "E2B_SANDBOX": "true"}));
    assert_eq!(
        envs(json!({"envVars": {"E2B_SANDBOX": "x", "E2B_SANDBOX_ID": "x"}, "sandboxId": "i"})),
        json!({"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "i"})
    );
    assert_eq!(
        envs(json!({"envVars": {}, "sandboxId": "j"})),
        json!({"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "j"})
    );
}

#[test]
fn an_overtaken_request_changes_nothing() {
    let daemon = Daemon::start();
    let client = daemon.client();
    // All of these are close enough to now that the machine's clock is left alone.
    let now = jiff::Timestamp::now();
    let at = |milliseconds| (now + jiff::SignedDuration::from_millis(milliseconds)).to_string();
    for (milliseconds, value, expected) in
        [(-100, "1", "1"), (-900, "2", "1"), (-100, "3", "3"), (0, "4", "4")]
    {
        let body = json!({"timestamp": at(milliseconds), "envVars": {"X": value}});
        assert_eq!(client.http("POST", "/init", &body.to_string()).status, 204);
        assert_eq!(client.http("GET", "/envs", "").json()["X"], expected, "{value}");
    }
}

#[test]
fn users_that_do_not_exist_are_refused_everywhere() {
    let daemon = Daemon::start();
    let client = daemon.client().user("no-such-user");
    let expected = json!({"code": "unauthenticated", "message": "invalid username: 'no-such-user'"});
    for (method, path, body) in [
        ("POST", "/process.Process/List", "{}"),
        ("GET", "/envs", ""),
        ("GET", "/health", ""),
        ("GET", "/files", ""),
    ] {
        let answer = client.http(method, path, body);
        assert_eq!((answer.status, answer.json()), (401, expected.clone()), "{method} {path}");
    }
    let outcome = client.stream("Start", &shell("true")).finish();
    assert_eq!(outcome.error.as_deref(), Some("unauthenticated"));
}

#[test]
fn metrics_have_the_names_and_kinds_that_clients_read() {
    let daemon = Daemon::start();
    let metrics = daemon.client().http("GET", "/metrics", "").json();
    for name in [
        "ts",
        "cpu_count",
        "mem_total",
        "mem_used",
        "mem_cache",
        "mem_total_mib",
        "mem_used_mib",
        "disk_used",
        "disk_total",
    ] {
        assert!(metrics[name].as_u64().is_some_and(|value| value > 0), "{name}: {metrics}");
    }
    assert!(
        metrics["cpu_used_pct"].as_f64().is_some_and(|value| (0.0..=100.0).contains(&value)),
        "{metrics}"
    );
    assert_eq!(metrics.as_object().unwrap().len(), 10);
}

#[test]
fn a_health_check_is_an_empty_answer_that_nobody_keeps() {
    let answer = Daemon::start().client().http("GET", "/health", "");
    assert_eq!(
        (answer.status, answer.header("cache-control"), answer.body.len()),
        (204, Some("no-store"), 0)
    );
}

#[test]
fn the_version_is_what_clients_compare() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_envd")).arg("-version").output().unwrap();
    assert_eq!(output.stdout, b"0.6.13\n");
}
