//! Processes: what they get, what they print and how they end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::time::{Duration, Instant};

use common::{Daemon, Event, envelope, eventually, shell};
use serde_json::json;

#[test]
fn a_command_gets_what_it_was_promised() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let outcome = client
        .start(&json!({"process": {
            "cmd": "sh",
            "args": ["-c", "echo out $A $1; echo err >&2; pwd; cat; cat /proc/self/oom_score_adj; nice; ulimit -n; exit 3", "sh", "x y"],
            "envs": {"A": "1"},
            "cwd": "/usr",
        }, "stdin": false}))
        .finish();
    assert_eq!(outcome.out(), "out 1 x y\n/usr\n100\n0\n1024\n");
    assert_eq!(outcome.stderr, b"err\n");
    let expected =
        json!({"exitCode": 3, "exited": true, "status": "exit status 3", "error": "exit status 3"});
    assert_eq!(outcome.end, Some(expected));
    assert_eq!(outcome.error, None);
}

#[test]
fn success_has_no_code_and_no_error() {
    let outcome = Daemon::start().client().run("true");
    assert_eq!(outcome.end, Some(json!({"exited": true, "status": "exit status 0"})));
}

#[test]
fn the_environment_is_small_and_exact() {
    let daemon = Daemon::start();
    let init = json!({"envVars": {"A": "init", "B": "init", "E2B_SANDBOX": "no"}, "sandboxId": "sbx", "templateId": "tpl"});
    assert_eq!(daemon.client().http("POST", "/init", &init.to_string()).status, 204);
    let outcome = daemon
        .client()
        .start(&json!({"process": {"cmd": "/usr/bin/env", "envs": {"B": "request", "PATH": "/x"}}}))
        .finish();
    let mut lines: Vec<_> = outcome.out().lines().collect();
    lines.sort_unstable();
    let expected = [
        "A=init",
        "B=request",
        "E2B_SANDBOX=true",
        "E2B_SANDBOX_ID=sbx",
        "E2B_TEMPLATE_ID=tpl",
        "HOME=/root",
        "LOGNAME=root",
        "PATH=/x",
        "USER=root",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn ten_mebibytes_arrive_whole_on_both_outputs() {
    let daemon = Daemon::start();
    let count = 10 << 20;
    let command = format!("yes 0123456789 | head -c {count} & yes abcdefghi | head -c {count} >&2; wait");
    let outcome = daemon.client().run(&command);
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (count, count));
    assert!(outcome.stdout.chunks(11).all(|line| b"0123456789\n".starts_with(line)));
    assert!(outcome.stderr.chunks(10).all(|line| b"abcdefghi\n".starts_with(line)));
    assert_eq!(outcome.code(), 0);
}

#[test]
fn output_that_nobody_reads_does_not_hold_the_process() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let marker = tempfile::NamedTempFile::new().unwrap();
    let path = marker.path().display();
    let events = client.shell(&format!("read <&0; head -c 50000000 /dev/zero; echo done > {path}"));
    // Without subscribers it is thrown away.
    events.disconnect();
    eventually("the process writes to the end", || {
        std::fs::read_to_string(marker.path()).unwrap() == "done\n"
    });
}

#[test]
fn input_goes_in_and_its_end_too() {
    let daemon = Daemon::start();
    let client = daemon.client();
    // Without the field, standard input is open: that is what clients older than the field expect.
    let mut cat = client.start(
        &json!({"process": {"cmd": "sh", "args": ["-c", "cat; echo end; exec sleep 100"]}, "tag": "cat"}),
    );
    let by_pid = json!({"pid": cat.pid});
    let input = json!({"process": by_pid, "input": {"stdin": "aGVsbG8K"}});
    client.call("SendInput", &input).unwrap();
    assert_eq!(cat.next(), Event::Stdout(b"hello\n".to_vec()));
    let wrong = json!({"process": by_pid, "input": {"pty": "aGVsbG8K"}});
    assert_eq!(client.call("SendInput", &wrong), Err("internal".into()));
    assert_eq!(client.call("SendInput", &json!({"process": by_pid})), Err("unimplemented".into()));

    let messages = [
        json!({"start": {"process": {"tag": "cat"}}}),
        json!({"data": {"input": {"stdin": "YQ=="}}}),
        json!({"keepalive": {}}),
        json!({"data": {"input": {"stdin": "Yg=="}}}),
    ];
    let body: Vec<u8> =
        messages.iter().flat_map(|message| envelope(message.to_string().as_bytes())).collect();
    let answer = client.raw("/process.Process/StreamInput", "application/connect+json", &body);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\0\0\0\0\x02{}\x02\0\0\0\x02{}"[..]));
    assert_eq!(cat.until("ab"), "ab");

    for _ in 0..2 {
        client.call("CloseStdin", &json!({"process": {"tag": "cat"}})).unwrap();
    }
    assert_eq!(cat.until("end\n"), "end\n");
    assert_eq!(client.call("SendInput", &input), Err("internal".into()));
    kill(&daemon, cat.pid);
    assert_eq!(cat.finish().code(), -1);
    assert_eq!(client.call("SendInput", &input), Err("not_found".into()));
}

#[test]
fn a_stream_of_input_has_to_say_for_whom() {
    let daemon = Daemon::start();
    let body = envelope(json!({"data": {"input": {"stdin": "YQ=="}}}).to_string().as_bytes());
    let answer = daemon.client().raw("/process.Process/StreamInput", "application/connect+json", &body);
    assert!(answer.text().contains("invalid_argument"), "{answer:?}");
}

#[test]
fn closed_input_is_at_its_end() {
    let daemon = Daemon::start();
    let mut events = daemon.client().shell("read line; echo $?; sleep 100");
    assert_eq!(events.next(), Event::Stdout(b"1\n".to_vec()));
    let input = json!({"process": {"pid": events.pid}, "input": {"stdin": "YQ=="}});
    assert_eq!(daemon.client().call("SendInput", &input), Err("internal".into()));
    kill(&daemon, events.pid);
}

#[test]
fn large_input_waits_for_the_reader_and_arrives() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut events = client
        .start(&json!({"process": {"cmd": "sh", "args": ["-c", "sleep 0.3; head -c 8388608 | md5sum"]}}));
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, vec![b'x'; 8 << 20]);
    let input = json!({"process": {"pid": events.pid}, "input": {"stdin": data}});
    client.call("SendInput", &input).unwrap();
    let expected = daemon.client().run("head -c 8388608 /dev/zero | tr '\\0' x | md5sum");
    assert_eq!(events.until("\n"), expected.out());
}

#[test]
fn a_terminal_is_one() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut events = client.start(&json!({
        "process": {"cmd": "/bin/bash", "args": ["--norc", "-i"], "envs": {"TERM": "xterm", "PS1": "ready> "}},
        "pty": {"size": {"cols": 100, "rows": 30}},
    }));
    // The very first bytes are there: the subscription is older than the process.
    assert!(events.until("ready> ").ends_with("ready> "));
    let pid = events.pid;
    let type_in = |text: &str| {
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        client.call("SendInput", &json!({"process": {"pid": pid}, "input": {"pty": data}})).unwrap();
    };
    type_in("stty size; tty; ps -o tty= -p $$\n");
    type_in("echo $((6 * 7))\n");
    let seen = events.until("42\r\n");
    assert!(seen.contains("30 100\r\n") && seen.contains("/dev/pts/"), "{seen:?}");

    let update = |size| json!({"process": {"pid": pid}, "pty": {"size": size}});
    client.call("Update", &update(json!({"cols": 132, "rows": 50}))).unwrap();
    client.call("Update", &json!({"process": {"pid": pid}})).unwrap();
    type_in("stty size\n");
    events.until("50 132\r\n");

    let stdin = json!({"process": {"pid": pid}, "input": {"stdin": "YQ=="}});
    assert_eq!(client.call("SendInput", &stdin), Err("internal".into()));
    assert_eq!(client.call("CloseStdin", &json!({"process": {"pid": pid}})), Err("unknown".into()));
    type_in("exit 5\n");
    assert_eq!(events.finish().code(), 5);
}

#[test]
fn a_terminal_belongs_to_its_user() {
    let daemon = Daemon::start();
    let mut events = daemon.client().user("nobody").start(&json!({
        "process": {"cmd": "sh", "args": ["-c", "stat -c '%U %a' $(tty); echo again > $(tty); stty size"], "cwd": "/"},
        "pty": {},
    }));
    let seen = events.until("24 80");
    assert!(seen.contains("nobody 620\r\n") && seen.contains("again\r\n"), "{seen:?}");
}

#[test]
fn resizing_needs_a_terminal() {
    let daemon = Daemon::start();
    let events = daemon.client().shell("sleep 100");
    let update = json!({"process": {"pid": events.pid}, "pty": {"size": {"cols": 1, "rows": 1}}});
    assert_eq!(daemon.client().call("Update", &update), Err("internal".into()));
    kill(&daemon, events.pid);
}

#[test]
fn signals_end_processes_and_say_so() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for (signal, status) in [(json!("SIGNAL_SIGKILL"), "signal: killed"), (json!(15), "signal: terminated")] {
        let events = client.start(&json!({"process": {"cmd": "sleep", "args": ["100"]}, "stdin": false}));
        let request = json!({"process": {"pid": events.pid}, "signal": signal});
        client.call("SendSignal", &request).unwrap();
        let outcome = events.finish();
        assert_eq!(outcome.end, Some(json!({"exitCode": -1, "status": status, "error": status})));
        assert_eq!(client.call("SendSignal", &request), Err("not_found".into()));
        assert_eq!(client.call("List", &json!({})), Ok(json!({})));
    }
    let events = client.shell("sleep 100");
    let wrong = json!({"process": {"pid": events.pid}, "signal": "SIGNAL_UNSPECIFIED"});
    assert_eq!(client.call("SendSignal", &wrong), Err("unimplemented".into()));
    kill(&daemon, events.pid);
}

#[test]
fn a_grandchild_that_keeps_the_output_delays_the_end_until_a_signal() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut events = client.shell("sleep 100 & echo $!; exit 0");
    let grandchild = events.until("\n");
    eventually("the shell has ended", || has_ended(events.pid));
    kill(&daemon, events.pid);
    let outcome = events.finish();
    assert_eq!(outcome.code(), 0, "it had ended by itself before");
    assert!(std::process::Command::new("kill").arg(grandchild.trim()).status().unwrap().success());
}

#[test]
fn what_was_printed_before_a_kill_arrives() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for _ in 0..20 {
        let events = client.shell("head -c 60000 /dev/zero; sleep 100 & kill -9 $$");
        let pid = events.pid;
        // The shell is gone, but sleep still holds its output.
        eventually("the shell has ended", || has_ended(pid));
        let _ = client.call("SendSignal", &json!({"process": {"pid": pid}, "signal": 9}));
        let outcome = events.finish();
        assert_eq!(outcome.stdout.len(), 60000);
        assert_eq!(outcome.end.unwrap()["status"], "signal: killed");
    }
}

#[test]
fn the_timeout_of_a_start_is_that_of_the_process() {
    let daemon = Daemon::start();
    let begin = Instant::now();
    let events = daemon.client().header("connect-timeout-ms", "300").shell("exec sleep 100");
    let pid = events.pid;
    let outcome = events.finish();
    assert_eq!(outcome.error.as_deref(), Some("deadline_exceeded"));
    assert_eq!(outcome.end, None);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    eventually("the process is gone", || !std::fs::exists(format!("/proc/{pid}")).unwrap());
    assert_eq!(daemon.client().call("List", &json!({})), Ok(json!({})));
    let late = daemon.client().stream("Connect", &json!({"process": {"pid": pid}})).finish();
    assert_eq!(late.end.unwrap()["status"], "signal: killed");

    // Zero is how some clients say "none".
    let outcome = daemon.client().header("connect-timeout-ms", "0").run("sleep 0.1; echo x");
    assert_eq!(outcome.out(), "x\n");
}

#[test]
fn a_timeout_of_a_follower_is_only_its_own() {
    let daemon = Daemon::start();
    let mut events = daemon.client().start(&json!({"process": {"cmd": "cat"}}));
    let select = json!({"process": {"pid": events.pid}});
    let outcome = daemon.client().header("connect-timeout-ms", "200").stream("Connect", &select).finish();
    assert_eq!(outcome.error.as_deref(), Some("deadline_exceeded"));
    let input = json!({"process": {"pid": events.pid}, "input": {"stdin": "YQ=="}});
    daemon.client().call("SendInput", &input).unwrap();
    assert_eq!(events.next(), Event::Stdout(b"a".to_vec()));
}

#[test]
fn a_timeout_that_is_none_is_refused() {
    let daemon = Daemon::start();
    for value in ["abc", "-1", "1.5", "12345678901"] {
        let client = daemon.client().header("connect-timeout-ms", value);
        assert_eq!(client.call("List", &json!({})), Err("invalid_argument".into()), "{value}");
        let error = client.stream("Start", &shell("true")).finish().error;
        assert_eq!(error.as_deref(), Some("invalid_argument"), "{value}");
    }
}

#[test]
fn those_who_come_later_hear_what_comes_later() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let mut first = client.start(&json!({"process": {"cmd": "cat"}, "tag": "shared"}));
    let send = |data: &str| {
        client.call("SendInput", &json!({"process": {"tag": "shared"}, "input": {"stdin": data}})).unwrap();
    };
    send("YQ==");
    assert_eq!(first.next(), Event::Stdout(b"a".to_vec()));
    let mut second = client.stream("Connect", &json!({"process": {"tag": "shared"}}));
    assert_eq!(second.next(), Event::Start(first.pid));
    send("Yg==");
    for events in [&mut first, &mut second] {
        assert_eq!(events.next(), Event::Stdout(b"b".to_vec()));
    }
    client.call("CloseStdin", &json!({"process": {"tag": "shared"}})).unwrap();
    let pid = first.pid;
    assert_eq!((first.finish().code(), second.finish().code()), (0, 0));
    // The exit is kept for a while, the output is not.
    for selector in [json!({"pid": pid}), json!({"tag": "shared"})] {
        let mut late = client.stream("Connect", &json!({"process": selector}));
        assert_eq!(late.next(), Event::Start(pid));
        assert_eq!(late.next(), Event::End(json!({"exited": true, "status": "exit status 0"})));
        assert_eq!(late.next(), Event::Closed(None));
    }
}

#[test]
fn names_find_the_right_one_of_several() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let start = |tag: &str| {
        client.start(&json!({"process": {"cmd": "sleep", "args": ["100"]}, "tag": tag, "stdin": false}))
    };
    let all = ["a", "b", "c"].map(|tag| (tag, start(tag)));
    let untagged = client.shell("sleep 100");
    let list = client.call("List", &json!({})).unwrap();
    assert_eq!(list["processes"].as_array().unwrap().len(), 4);
    for (tag, events) in &all {
        let mut follower = client.stream("Connect", &json!({"process": {"tag": tag}}));
        assert_eq!(follower.next(), Event::Start(events.pid));
        let entry = list["processes"].as_array().unwrap().iter().find(|entry| entry["tag"] == **tag).unwrap();
        assert_eq!(entry["pid"], events.pid);
        assert_eq!(entry["config"], json!({"cmd": "sleep", "args": ["100"]}));
    }
    // An exit that was kept gives way to a new process of the same name.
    kill(&daemon, all[1].1.pid);
    eventually("b is gone", || {
        client.call("List", &json!({})).unwrap()["processes"].as_array().unwrap().len() == 3
    });
    let again = start("b");
    assert_eq!(client.stream("Connect", &json!({"process": {"tag": "b"}})).next(), Event::Start(again.pid));
    for pid in [all[0].1.pid, all[2].1.pid, untagged.pid, again.pid] {
        kill(&daemon, pid);
    }
}

#[test]
fn who_is_not_there_is_not_found() {
    let daemon = Daemon::start();
    let client = daemon.client();
    for selector in [json!({"pid": 1}), json!({"tag": "nobody"}), json!({"tag": ""})] {
        let process = json!({"process": selector, "input": {"stdin": ""}, "signal": 9});
        for method in ["SendInput", "SendSignal", "CloseStdin", "Update"] {
            assert_eq!(client.call(method, &process), Err("not_found".into()), "{method} {selector}");
        }
        let error = client.stream("Connect", &json!({"process": selector})).finish().error;
        assert_eq!(error.as_deref(), Some("not_found"));
    }
    for process in [json!({}), json!({"process": {}})] {
        for method in ["SendInput", "SendSignal", "CloseStdin", "Update"] {
            assert_eq!(client.call(method, &process), Err("unimplemented".into()), "{method} {process}");
        }
        let error = client.stream("Connect", &process).finish().error;
        assert_eq!(error.as_deref(), Some("unimplemented"));
    }
}

#[test]
fn what_cannot_run_ends_as_in_a_shell() {
    let daemon = Daemon::start();
    for (program, code, text) in
        [("no-such-program", 127, "not found"), ("/etc/passwd", 126, "Permission denied")]
    {
        let outcome = daemon.client().start(&json!({"process": {"cmd": program}})).finish();
        let stderr = String::from_utf8(outcome.stderr.clone()).unwrap();
        assert_eq!(outcome.code(), code);
        assert!(stderr.contains(program) && stderr.contains(text), "{stderr}");
    }
}

#[test]
fn a_directory_that_cannot_be_entered_is_an_error() {
    let daemon = Daemon::start();
    let private = tempfile::tempdir().unwrap();
    std::fs::set_permissions(private.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for (user, cwd) in [
        ("root", "/no/such/directory"),
        ("root", "~nobody"),
        ("root", "/etc/passwd"),
        ("nobody", private.path().to_str().unwrap()),
    ] {
        let request = json!({"process": {"cmd": "true", "cwd": cwd}});
        let error = daemon.client().user(user).stream("Start", &request).finish().error;
        assert_eq!(error.as_deref(), Some("invalid_argument"), "{user} {cwd}");
    }
    let request = json!({"process": {"cmd": "true", "envs": {"A": "\0"}}});
    let error = daemon.client().stream("Start", &request).finish().error;
    assert_eq!(error.as_deref(), Some("invalid_argument"));
}

#[test]
fn a_process_outlives_its_client() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let events = client.start(&json!({"process": {"cmd": "cat"}, "tag": "survivor"}));
    let pid = events.pid;
    events.disconnect();
    // Even one that goes away before it hears anything.
    let marker = tempfile::NamedTempFile::new().unwrap();
    let command = format!("sleep 0.2; echo done > {}", marker.path().display());
    client.stream("Start", &shell(&command)).disconnect();
    eventually("the second one ran", || std::fs::read_to_string(marker.path()).unwrap() == "done\n");

    let mut again = client.stream("Connect", &json!({"process": {"tag": "survivor"}}));
    assert_eq!(again.next(), Event::Start(pid));
    client.call("SendInput", &json!({"process": {"pid": pid}, "input": {"stdin": "YQ=="}})).unwrap();
    assert_eq!(again.next(), Event::Stdout(b"a".to_vec()));
    kill(&daemon, pid);
    assert_eq!(again.finish().end.unwrap()["status"], "signal: killed");
}

#[test]
fn processes_run_as_the_user_who_is_asked_for() {
    let daemon = Daemon::start();
    let who = |user: &str| {
        let request = json!({"process": {"cmd": "sh", "args": ["-c", "id -un; id -G; echo $HOME $USER $LOGNAME"], "cwd": "/"}});
        daemon.client().user(user).start(&request).finish().out().to_owned()
    };
    let entry = std::fs::read_to_string("/etc/passwd").unwrap();
    let home = entry
        .lines()
        .find_map(|line| line.strip_prefix("nobody:"))
        .unwrap()
        .split(':')
        .nth(4)
        .unwrap()
        .to_owned();
    let groups =
        String::from_utf8(std::process::Command::new("id").args(["-G", "nobody"]).output().unwrap().stdout)
            .unwrap();
    assert_eq!(who("nobody"), format!("nobody\n{groups}{home} nobody nobody\n"));
    assert!(who("root").starts_with("root\n0"));
    // The default can be changed, and a default that does not exist is noticed when it is needed.
    let client = daemon.client();
    client.http("POST", "/init", r#"{"defaultUser":"nobody","defaultWorkdir":"/tmp"}"#);
    assert_eq!(client.run("id -un; pwd").out(), "nobody\n/tmp\n");
    client.http("POST", "/init", r#"{"defaultUser":"no-such-user"}"#);
    assert_eq!(client.stream("Start", &shell("true")).finish().error.as_deref(), Some("unauthenticated"));
}

#[test]
fn an_idle_stream_shows_signs_of_life() {
    let daemon = Daemon::start();
    let mut events = daemon.client().header("keepalive-ping-interval", "1").shell("sleep 100");
    assert_eq!(events.next(), Event::Keepalive);
    assert_eq!(events.next(), Event::Keepalive);
    kill(&daemon, events.pid);
}

fn kill(daemon: &Daemon, pid: u32) {
    daemon
        .client()
        .call("SendSignal", &json!({"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}))
        .unwrap();
}

/// Whether a process has ended: it is a zombie, or nothing at all.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}
