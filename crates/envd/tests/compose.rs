//! `POST /files/compose`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common_files;

use std::fs;
use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt as _, symlink};

use common_files::{Answer, Mount, Server, eventually, noise};
use serde_json::{Value, json};

const JSON: (&str, &str) = ("content-type", "application/json");

fn compose(server: &Server, body: &Value) -> Answer {
    server.request("POST", "/files/compose", &[JSON], body.to_string().as_bytes())
}

/// Composes files of the server's directory.
fn these(server: &Server, sources: &[&str], destination: &str) -> Answer {
    let sources: Vec<String> = sources.iter().map(|name| server.text(name)).collect();
    compose(server, &json!({"source_paths": sources, "destination": server.text(destination)}))
}

/// What is in a directory, which has nothing temporary in it then.
fn names(server: &Server, directory: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(server.path(directory))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn files_become_one_in_order_and_are_gone() {
    let server = Server::start();
    for (name, contents) in [("a", "first "), ("b", ""), ("c", "third")] {
        fs::write(server.path(name), contents).unwrap();
    }
    let answer = these(&server, &["c", "b", "a"], "new/dir/all.txt");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let path = server.text("new/dir/all.txt");
    assert_eq!(answer.json(), json!({"name": "all.txt", "path": path, "type": "file"}));
    assert_eq!(fs::read_to_string(path).unwrap(), "thirdfirst ");
    assert_eq!(fs::metadata(server.path("new/dir/all.txt")).unwrap().mode() & 0o777, 0o644);
    assert_eq!(names(&server, "."), ["new"]);
    assert_eq!(names(&server, "new/dir"), ["all.txt"]);
}

#[test]
fn one_file_is_moved_and_the_same_one_may_come_twice() {
    let server = Server::start();
    fs::write(server.path("a"), "once").unwrap();
    fs::write(server.path("old"), "old").unwrap();
    assert_eq!(these(&server, &["a"], "old").status, 200);
    assert_eq!(fs::read_to_string(server.path("old")).unwrap(), "once");
    assert_eq!(these(&server, &["old", "old"], "twice").status, 200);
    assert_eq!(fs::read_to_string(server.path("twice")).unwrap(), "onceonce");
    assert_eq!(names(&server, "."), ["twice"]);
}

#[test]
fn a_large_file_is_whole() {
    let server = Server::start();
    let contents = noise(40 << 20);
    let (first, second) = contents.split_at(13 << 20);
    fs::write(server.path("a"), first).unwrap();
    fs::write(server.path("b"), second).unwrap();
    assert_eq!(these(&server, &["a", "b"], "all").status, 200);
    assert!(fs::read(server.path("all")).unwrap() == contents);
}

#[test]
fn the_result_belongs_to_the_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let server = Server::start();
    fs::write(server.path("a"), "x").unwrap();
    let body = json!({"source_paths": [server.text("a")], "destination": server.text("new/all"),
        "username": "nobody"});
    assert_eq!(compose(&server, &body).status, 200);
    let owner = |name| fs::metadata(server.path(name)).unwrap().uid();
    assert_eq!((owner("new"), owner("new/all")), (65534, 65534));
    let body = json!({"source_paths": ["a"], "destination": "b", "username": "who"});
    let answer = compose(&server, &body);
    assert_eq!((answer.status, answer.message().as_str()), (401, "invalid username: 'who'"));
}

#[test]
fn what_cannot_be_composed_changes_nothing() {
    let server = Server::start();
    fs::write(server.path("a"), "a").unwrap();
    fs::write(server.path("old"), "old").unwrap();
    fs::create_dir(server.path("dir")).unwrap();
    symlink("old", server.path("link")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, server.path("pipe"), rustix::fs::Mode::from_raw_mode(0o600))
        .unwrap();
    for (sources, destination, status, part) in [
        (&["a", "missing"][..], "old", 404, "source file not found"),
        (&["a", "dir"], "old", 400, "not a regular file"),
        (&["a", "pipe"], "old", 400, "not a regular file"),
        (&["a", "old"], "old", 400, "same as destination"),
        // However it is written.
        (&["a", "dir/../old"], "old", 400, "same as destination"),
        (&["a", "link"], "old", 400, "same as destination"),
        (&["a"], "dir", 400, "is a directory"),
        (&["a"], "dir/", 400, "no name of a file"),
        (&["a"], "old/below", 500, "cannot look at"),
    ] {
        let answer = these(&server, sources, destination);
        assert_eq!(answer.status, status, "{sources:?} {destination}: {}", answer.text());
        assert!(answer.message().contains(part), "{}", answer.text());
    }
    for body in [
        json!({"source_paths": [], "destination": "/x"}),
        json!({"source_paths": ["a"], "destination": ""}),
        json!({"source_paths": ["a"]}),
        json!({"destination": "/x"}),
        json!({"source_paths": [""], "destination": "/x"}),
        json!({"source_paths": ["~nobody/x"], "destination": "/x"}),
        json!({"source_paths": ["a\0b"], "destination": "/x"}),
        json!({"source_paths": vec!["a"; 10_001], "destination": "/x"}),
        json!({"source_paths": "a", "destination": "/x"}),
        json!([["a"], "/x"]),
    ] {
        assert_eq!(compose(&server, &body).status, 400, "{body}");
    }
    for body in ["", "{", "null"] {
        assert_eq!(server.request("POST", "/files/compose", &[JSON], body.as_bytes()).status, 400, "{body}");
    }
    assert_eq!(names(&server, "."), ["a", "dir", "link", "old", "pipe"]);
    assert_eq!(fs::read_to_string(server.path("old")).unwrap(), "old");
}

#[test]
fn a_full_disk_keeps_the_old_file_and_the_sources() {
    let server = Server::start();
    let _mount = Mount::tmpfs(&server.path("disk"), "size=4m,nr_inodes=16");
    fs::write(server.path("disk/old"), "old").unwrap();
    fs::write(server.path("disk/a"), noise(1 << 20)).unwrap();
    fs::write(server.path("b"), noise(5 << 20)).unwrap();
    let answer = these(&server, &["disk/a", "b"], "disk/old");
    assert_eq!((answer.status, answer.message().as_str()), (507, "not enough disk space available"));
    assert_eq!(names(&server, "disk"), ["a", "old"]);
    assert_eq!(fs::read_to_string(server.path("disk/old")).unwrap(), "old");
    // No room for one more name.
    for number in 0..13 {
        fs::write(server.path(&format!("disk/{number}")), "").unwrap();
    }
    let answer = these(&server, &["disk/a"], "disk/old");
    assert_eq!((answer.status, answer.message().as_str()), (507, "not enough disk space available"));
    assert_eq!(fs::read_to_string(server.path("disk/old")).unwrap(), "old");
}

#[test]
fn it_is_finished_when_the_client_hangs_up() {
    let server = Server::start();
    let sources: Vec<String> = (0..20).map(|number| server.text(&format!("part-{number}"))).collect();
    for source in &sources {
        fs::write(source, noise(4 << 20)).unwrap();
    }
    let body = json!({"source_paths": sources, "destination": server.text("all")}).to_string();
    let length = body.len().to_string();
    let mut stream = server.begin("POST", "/files/compose", &[JSON, ("content-length", &length)]);
    stream.write_all(body.as_bytes()).unwrap();
    // It has begun.
    eventually("a temporary file", || !names(&server, ".").iter().all(|name| name.starts_with("part-")));
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    eventually("the result and nothing else", || names(&server, ".") == ["all"]);
    assert_eq!(fs::metadata(server.path("all")).unwrap().len(), 80 << 20);
}

#[test]
fn it_needs_the_token_and_no_signature_will_do() {
    let server = Server::start();
    fs::write(server.path("a"), "a").unwrap();
    assert_eq!(server.request("POST", "/init", &[JSON], br#"{"accessToken":"secret"}"#).status, 204);
    assert_eq!(these(&server, &["a"], "b").status, 401);
    let body = json!({"source_paths": [server.text("a")], "destination": server.text("b")}).to_string();
    let headers = [JSON, ("x-access-token", "secret")];
    assert_eq!(server.request("POST", "/files/compose", &headers, body.as_bytes()).status, 200);
}
