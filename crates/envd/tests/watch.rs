//! Watching directories, as a stream and by asking.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common_files;

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, Instant};

use common_files::{Mount, PATIENCE, Server, change, eventually};
use serde_json::{Value, json};

fn create(server: &Server, request: &Value) -> String {
    server.call("CreateWatcher", request).unwrap()["watcherId"].as_str().unwrap().to_owned()
}

fn events(server: &Server, id: &str) -> Vec<Value> {
    let answer = server.call("GetWatcherEvents", &json!({"watcherId": id})).unwrap();
    answer["events"].as_array().cloned().unwrap_or_default()
}

fn changes(server: &Server, id: &str) -> Vec<(String, String)> {
    events(server, id).iter().map(change).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(name, kind)| ((*name).to_owned(), (*kind).to_owned())).collect()
}

#[test]
fn an_upload_is_three_changes() {
    let server = Server::start();
    let id = create(&server, &json!({"path": server.directory()}));
    assert!(id.starts_with('w') && id.len() == 21, "{id}");
    assert!(events(&server, &id).is_empty());
    let mut stream = server.stream("WatchDir", &json!({"path": server.directory()}), &[]);
    assert_eq!(stream.next(), json!({"start": {}}));
    server.put("test.txt", b"hello");
    // Right after the upload was acknowledged: nothing may be missing, without waiting.
    let expected = pairs(&[("test.txt", "CREATE"), ("test.txt", "CHMOD"), ("test.txt", "WRITE")]);
    assert_eq!(changes(&server, &id), expected);
    assert_eq!([stream.change(), stream.change(), stream.change()].to_vec(), expected);
    assert!(events(&server, &id).is_empty());
    server.call("RemoveWatcher", &json!({"watcherId": id})).unwrap();
    for method in ["GetWatcherEvents", "RemoveWatcher"] {
        assert_eq!(server.code(method, &json!({"watcherId": id})), "not_found");
    }
}

#[test]
fn a_large_upload_is_three_changes_for_who_asks_later() {
    let server = Server::start();
    let id = create(&server, &json!({"path": server.directory()}));
    server.put("large", &common_files::noise(20 << 20));
    assert_eq!(changes(&server, &id), pairs(&[("large", "CREATE"), ("large", "CHMOD"), ("large", "WRITE")]));
}

#[test]
fn every_kind_of_change() {
    let server = Server::start();
    let root = server.path("root");
    std::fs::create_dir(&root).unwrap();
    let id = create(&server, &json!({"path": root}));
    let expect = |expected: &[(&str, &str)]| assert_eq!(changes(&server, &id), pairs(expected));
    std::fs::write(root.join("a"), "1").unwrap();
    expect(&[("a", "CREATE"), ("a", "WRITE")]);
    std::fs::set_permissions(root.join("a"), std::fs::Permissions::from_mode(0o600)).unwrap();
    expect(&[("a", "CHMOD")]);
    std::fs::rename(root.join("a"), root.join("b")).unwrap();
    expect(&[("a", "RENAME"), ("b", "CREATE")]);
    std::fs::rename(root.join("b"), server.path("outside")).unwrap();
    expect(&[("b", "RENAME")]);
    std::fs::rename(server.path("outside"), root.join("c")).unwrap();
    expect(&[("c", "CREATE")]);
    std::fs::remove_file(root.join("c")).unwrap();
    expect(&[("c", "REMOVE")]);
    std::fs::create_dir(root.join("dir")).unwrap();
    expect(&[("dir", "CREATE")]);
    // Not recursive: what happens below is not told, only what happens to the directory.
    std::fs::write(root.join("dir/x"), "").unwrap();
    expect(&[]);
    symlink("nowhere", root.join("link")).unwrap();
    expect(&[("link", "CREATE")]);
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o700)).unwrap();
    expect(&[(".", "CHMOD")]);
    std::fs::rename(&root, server.path("moved")).unwrap();
    expect(&[(".", "RENAME")]);
    std::fs::remove_dir_all(server.path("moved")).unwrap();
    let last = changes(&server, &id);
    assert_eq!(last.last().unwrap(), &(".".to_owned(), "REMOVE".to_owned()), "{last:?}");
    // Nothing can happen any more, and that is no error.
    expect(&[]);
}

#[test]
fn entries_come_with_changes_when_asked_for() {
    let server = Server::start();
    let id = create(&server, &json!({"path": server.directory(), "includeEntry": true}));
    std::fs::write(server.path("a"), "12345").unwrap();
    let seen = events(&server, &id);
    let written = seen.last().unwrap();
    assert_eq!(change(written), ("a".to_owned(), "WRITE".to_owned()));
    let entry = &written["entry"];
    assert_eq!((&entry["path"], &entry["size"]), (&json!(server.text("a")), &json!("5")), "{entry}");
    // The old name of what was moved, and what was removed, have no entry, even if there is another one of that name.
    std::fs::rename(server.path("a"), server.path("b")).unwrap();
    std::fs::write(server.path("a"), "new").unwrap();
    std::fs::remove_file(server.path("b")).unwrap();
    let seen = events(&server, &id);
    let with_entry: Vec<_> = seen
        .iter()
        .map(|event| (change(event), event["entry"].is_object()))
        // Whether the new one was still there when it was looked at is a matter of luck.
        .filter(|((name, kind), _)| (name.as_str(), kind.as_str()) != ("b", "CREATE"))
        .collect();
    let expected =
        [("a", "RENAME", false), ("a", "CREATE", true), ("a", "WRITE", true), ("b", "REMOVE", false)]
            .map(|(name, kind, entry)| ((name.to_owned(), kind.to_owned()), entry));
    assert_eq!(with_entry, expected, "{seen:?}");
    // Without asking there are none.
    let plain = create(&server, &json!({"path": server.directory()}));
    std::fs::write(server.path("c"), "").unwrap();
    assert!(events(&server, &plain).iter().all(|event| event["entry"].is_null()));
}

#[test]
fn a_burst_of_nested_directories_is_told_completely_and_once() {
    const TREES: usize = 20;
    const DEPTH: usize = 25;
    let server = Server::start();
    let id = create(&server, &json!({"path": server.directory(), "recursive": true}));
    let mut stream = server.stream("WatchDir", &json!({"path": server.directory(), "recursive": true}), &[]);
    assert_eq!(stream.next(), json!({"start": {}}));
    let mut expected = BTreeMap::new();
    let root = server.directory().to_owned();
    std::thread::scope(|scope| {
        for tree in 0..TREES {
            let path = (0..DEPTH).fold(format!("t{tree}"), |path, level| {
                expected.insert(path.clone(), 1);
                format!("{path}/{level}")
            });
            expected.insert(path.clone(), 1);
            expected.insert(format!("{path}/file"), 1);
            let root = root.clone();
            scope.spawn(move || {
                std::fs::create_dir_all(root.join(&path)).unwrap();
                std::fs::write(root.join(&path).join("file"), "x").unwrap();
            });
        }
    });
    let mut told = BTreeMap::new();
    let mut count = |(name, kind): (String, String)| {
        if kind == "CREATE" {
            *told.entry(name).or_insert(0) += 1;
        }
        told.len()
    };
    while count(stream.change()) < expected.len() {}
    assert_eq!(told, expected);
    let mut polled = BTreeMap::new();
    eventually("everything is told", || {
        for (name, kind) in changes(&server, &id) {
            if kind == "CREATE" {
                *polled.entry(name).or_insert(0) += 1;
            }
        }
        polled.len() >= expected.len()
    });
    assert_eq!(polled, expected);
    // And the directories are watched now, to the last one.
    let deepest = expected.keys().max_by_key(|path| path.len()).unwrap();
    std::fs::write(server.path(deepest), "more").unwrap();
    assert!(changes(&server, &id).iter().any(|(name, kind)| name == deepest && kind == "WRITE"));
}

#[test]
fn recursive_watches_follow_directories() {
    let server = Server::start();
    std::fs::create_dir_all(server.path("root/a/b")).unwrap();
    std::fs::create_dir_all(server.path("outside/x/y")).unwrap();
    std::fs::write(server.path("outside/x/y/file"), "").unwrap();
    symlink(server.path("outside"), server.path("root/link")).unwrap();
    let root = server.path("root");
    let id = create(&server, &json!({"path": root, "recursive": true}));
    let expect = |expected: &[(&str, &str)]| assert_eq!(changes(&server, &id), pairs(expected));
    std::fs::write(root.join("a/b/file"), "").unwrap();
    expect(&[("a/b/file", "CREATE")]);
    // One that exists is told once when something happens to it, not by itself and by its parent.
    std::fs::set_permissions(root.join("a"), std::fs::Permissions::from_mode(0o700)).unwrap();
    expect(&[("a", "CHMOD")]);
    // Links are not followed.
    std::fs::write(server.path("outside/unseen"), "").unwrap();
    expect(&[]);
    // Renamed inside: the contents are known under the new name.
    std::fs::rename(root.join("a"), root.join("c")).unwrap();
    expect(&[("a", "RENAME"), ("c", "CREATE")]);
    std::fs::write(root.join("c/b/file"), "1").unwrap();
    expect(&[("c/b/file", "WRITE")]);
    // Moved in: the contents are news.
    std::fs::rename(server.path("outside/x"), root.join("x")).unwrap();
    expect(&[("x", "CREATE"), ("x/y", "CREATE"), ("x/y/file", "CREATE")]);
    std::fs::write(root.join("x/y/file"), "1").unwrap();
    expect(&[("x/y/file", "WRITE")]);
    // Moved out: no longer of interest.
    std::fs::rename(root.join("x"), server.path("outside/x")).unwrap();
    expect(&[("x", "RENAME")]);
    std::fs::write(server.path("outside/x/y/file"), "2").unwrap();
    expect(&[]);
    // Removed from the inside out, each once.
    std::fs::remove_dir_all(root.join("c")).unwrap();
    expect(&[("c/b/file", "REMOVE"), ("c/b", "REMOVE"), ("c", "REMOVE")]);
    // And made again.
    std::fs::create_dir(root.join("c")).unwrap();
    expect(&[("c", "CREATE")]);
    std::fs::write(root.join("c/new"), "").unwrap();
    expect(&[("c/new", "CREATE")]);
}

#[test]
fn what_cannot_be_watched() {
    let server = Server::start();
    std::fs::write(server.path("file"), "").unwrap();
    for (name, code) in [("missing", "not_found"), ("file", "invalid_argument")] {
        assert_eq!(server.code("CreateWatcher", &json!({"path": server.text(name)})), code);
        let mut stream = server.stream("WatchDir", &json!({"path": server.text(name)}), &[]);
        assert_eq!(stream.next()["error"]["code"], code);
    }
    assert_eq!(server.code("GetWatcherEvents", &json!({"watcherId": "w"})), "not_found");
    // A link to a directory is fine.
    std::fs::create_dir(server.path("dir")).unwrap();
    symlink("dir", server.path("link")).unwrap();
    let id = create(&server, &json!({"path": server.text("link"), "recursive": true}));
    std::fs::create_dir(server.path("dir/sub")).unwrap();
    assert_eq!(changes(&server, &id), pairs(&[("sub", "CREATE")]));
    // So are other local file systems.
    let mount = Mount::tmpfs(&server.path("mounted"), "size=1m");
    let id = create(&server, &json!({"path": server.text("mounted")}));
    std::fs::write(server.path("mounted/x"), "").unwrap();
    assert_eq!(changes(&server, &id), pairs(&[("x", "CREATE")]));
    drop(mount);
}

#[test]
fn a_watcher_that_nobody_asks_fails_instead_of_growing() {
    let server = Server::start();
    let id = create(&server, &json!({"path": server.directory()}));
    let other = create(&server, &json!({"path": server.directory()}));
    std::fs::write(server.path("x"), "").unwrap();
    for round in 0..9000 {
        // Two changes each, the cheapest way.
        std::fs::rename(server.path("x"), server.path("y")).unwrap();
        std::fs::rename(server.path("y"), server.path("x")).unwrap();
        if round % 1000 == 0 {
            // This one is asked in time.
            events(&server, &other);
        }
    }
    let mut outcome = Ok(Value::Null);
    eventually("the watcher fails", || {
        outcome = server.call("GetWatcherEvents", &json!({"watcherId": id}));
        outcome.is_err()
    });
    let (code, message) = outcome.unwrap_err();
    assert_eq!(code, "internal");
    assert!(message.contains("lost"), "{message}");
    assert_eq!(server.code("GetWatcherEvents", &json!({"watcherId": id})), "internal");
    events(&server, &other);
    server.call("RemoveWatcher", &json!({"watcherId": id})).unwrap();
}

#[test]
fn idle_streams_show_that_they_are_alive() {
    let server = Server::start();
    let begin = Instant::now();
    let mut stream =
        server.stream("WatchDir", &json!({"path": server.directory()}), &[("keepalive-ping-interval", "1")]);
    assert_eq!(stream.next(), json!({"start": {}}));
    assert_eq!(stream.next(), json!({"keepalive": {}}));
    assert!(begin.elapsed() >= Duration::from_secs(1));
    std::fs::write(server.path("x"), "").unwrap();
    assert_eq!(stream.change(), ("x".to_owned(), "CREATE".to_owned()));
    assert_eq!(stream.next(), json!({"keepalive": {}}));
    // Nonsense does not harm anybody.
    for interval in ["0", "-5", "soon", "99999999999999999999"] {
        let mut stream = server.stream(
            "WatchDir",
            &json!({"path": server.directory()}),
            &[("keepalive-ping-interval", interval)],
        );
        assert_eq!(stream.next(), json!({"start": {}}));
    }
    assert_eq!(server.request("GET", "/health", &[], b"").status, 204);
}

#[test]
fn a_deadline_ends_a_stream() {
    let server = Server::start();
    let mut stream =
        server.stream("WatchDir", &json!({"path": server.directory()}), &[("connect-timeout-ms", "300")]);
    assert_eq!(stream.next(), json!({"start": {}}));
    assert_eq!(stream.next()["error"]["code"], "deadline_exceeded");
}

#[test]
fn watches_end_with_their_clients() {
    let server = Server::start();
    let streams: Vec<_> = (0..10)
        .map(|_| {
            let mut stream = server.stream("WatchDir", &json!({"path": server.directory()}), &[]);
            assert_eq!(stream.next(), json!({"start": {}}));
            stream
        })
        .collect();
    let id = create(&server, &json!({"path": server.directory()}));
    assert_eq!(server.descriptors("inotify"), 11);
    drop(streams);
    eventually("streams are gone", || server.descriptors("inotify") == 1);
    server.call("RemoveWatcher", &json!({"watcherId": id})).unwrap();
    eventually("the watcher is gone", || server.descriptors("inotify") == 0);
}

#[test]
fn a_slow_reader_of_a_stream_hears_everything_or_is_told() {
    let server = Server::start();
    let mut stream = server.stream("WatchDir", &json!({"path": server.directory()}), &[]);
    assert_eq!(stream.next(), json!({"start": {}}));
    for number in 0..3000 {
        std::fs::write(server.path(&number.to_string()), "").unwrap();
    }
    let begin = Instant::now();
    for number in 0..3000 {
        assert_eq!(stream.change(), (number.to_string(), "CREATE".to_owned()));
        assert!(begin.elapsed() < PATIENCE);
    }
}
