//! Looking at, making, moving and removing files.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common_files;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buffa::Message as _;
use common_files::{Mount, Server};
use envd_proto::filesystem::{ListDirRequest, ListDirResponse, StatRequest, StatResponse};
use serde_json::{Value, json};

fn basic(user: &str) -> (&'static str, String) {
    ("authorization", format!("Basic {}", STANDARD.encode(format!("{user}:"))))
}

fn mode(path: &Path, bits: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(bits)).unwrap();
}

fn stat(server: &Server, name: &str) -> Value {
    server.call("Stat", &json!({"path": server.text(name)})).unwrap()["entry"].clone()
}

#[test]
fn an_entry_says_everything_about_a_file() {
    let server = Server::start();
    std::fs::write(server.path("test.txt"), "Hello, World!").unwrap();
    mode(&server.path("test.txt"), 0o640);
    std::os::unix::fs::chown(server.path("test.txt"), Some(1), Some(54_321)).unwrap();
    let entry = stat(&server, "test.txt");
    let modified = entry["modifiedTime"].as_str().unwrap();
    assert!(modified.len() >= "2026-01-01T00:00:00Z".len() && modified.ends_with('Z'), "{modified}");
    assert_eq!(
        entry,
        json!({
            "name": "test.txt",
            "type": "FILE_TYPE_FILE",
            "path": server.text("test.txt"),
            "size": "13",
            "mode": 0o640,
            "permissions": "-rw-r-----",
            "owner": "daemon",
            "group": "54321",
            "modifiedTime": modified,
        })
    );
    std::fs::create_dir(server.path("dir")).unwrap();
    mode(&server.path("dir"), 0o1777);
    let entry = stat(&server, "dir");
    assert_eq!(
        (&entry["type"], &entry["mode"], &entry["permissions"], &entry["owner"]),
        (&json!("FILE_TYPE_DIRECTORY"), &json!(0o777), &json!("dtrwxrwxrwx"), &json!("root"))
    );
    assert_eq!(server.code("Stat", &json!({"path": server.text("missing")})), "not_found");
    assert_eq!(server.code("Stat", &json!({"path": server.text("test.txt/below")})), "internal");
}

#[test]
fn links_have_the_kind_of_what_they_lead_to() {
    let server = Server::start();
    std::fs::write(server.path("file"), "12345").unwrap();
    mode(&server.path("file"), 0o600);
    std::fs::create_dir(server.path("dir")).unwrap();
    for (link, target) in [
        ("to-file", "file"),
        ("chain", "to-file"),
        ("to-dir", "dir"),
        ("broken", "nothing"),
        ("circle", "circle"),
        ("device", "/dev/null"),
    ] {
        symlink(target, server.path(link)).unwrap();
    }
    let real = |name: &str| std::fs::canonicalize(server.path(name)).unwrap().to_str().unwrap().to_owned();
    for (link, kind, target, bits) in [
        ("to-file", json!("FILE_TYPE_FILE"), real("file"), 0o600),
        ("chain", json!("FILE_TYPE_FILE"), real("file"), 0o600),
        ("to-dir", json!("FILE_TYPE_DIRECTORY"), real("dir"), 0o755),
        ("broken", Value::Null, server.text("broken"), 0o777),
        ("circle", Value::Null, server.text("circle"), 0o777),
        ("device", Value::Null, "/dev/null".to_owned(), 0o666),
    ] {
        let entry = stat(&server, link);
        assert_eq!(entry["type"], kind, "{entry}");
        assert_eq!(entry["symlinkTarget"], target, "{entry}");
        assert_eq!(entry["mode"], bits, "{entry}");
        assert_eq!(
            (&entry["isSymlink"], &entry["permissions"]),
            (&json!(true), &json!("Lrwxrwxrwx")),
            "{entry}"
        );
        assert_eq!((&entry["name"], &entry["path"]), (&json!(link), &json!(server.text(link))));
    }
}

#[test]
fn metadata_is_part_of_an_entry() {
    let server = Server::start();
    server.put_with("file", &[("x-metadata-author", "me"), ("x-metadata-purpose", "test")], b"x");
    assert_eq!(stat(&server, "file")["metadata"], json!({"author": "me", "purpose": "test"}));
    let list = server.call("ListDir", &json!({"path": server.directory()})).unwrap();
    assert_eq!(list["entries"][0]["metadata"], json!({"author": "me", "purpose": "test"}));
}

#[test]
fn listing_goes_as_deep_as_asked() {
    let server = Server::start();
    std::fs::create_dir_all(server.path("root/a/b/c")).unwrap();
    std::fs::write(server.path("root/a/b/c/deep"), "").unwrap();
    std::fs::write(server.path("root/z.txt"), "").unwrap();
    symlink("a", server.path("root/link")).unwrap();
    symlink("root", server.path("way")).unwrap();
    let list = |name: &str, depth: Option<u32>| {
        let mut request = json!({"path": server.text(name)});
        if let Some(depth) = depth {
            request["depth"] = json!(depth);
        }
        let answer = server.call("ListDir", &request).unwrap();
        let prefix = format!("{}/", server.text(name));
        let entries = answer["entries"].as_array().cloned().unwrap_or_default();
        let paths = entries.iter().map(|entry| entry["path"].as_str().unwrap());
        paths.map(|path| path.strip_prefix(&prefix).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("root", None), ["a", "link", "z.txt"]);
    assert_eq!(list("root", Some(0)), ["a", "link", "z.txt"]);
    assert_eq!(list("root", Some(1)), ["a", "link", "z.txt"]);
    assert_eq!(list("root", Some(2)), ["a", "a/b", "link", "z.txt"]);
    assert_eq!(list("root", Some(3)), ["a", "a/b", "a/b/c", "link", "z.txt"]);
    assert_eq!(list("root", Some(9)), ["a", "a/b", "a/b/c", "a/b/c/deep", "link", "z.txt"]);
    // A link as the root is followed, and paths stay below the path that was asked for.
    assert_eq!(list("way", Some(1)), ["a", "link", "z.txt"]);
    assert_eq!(list("root/a/b/c", None), ["deep"]);
    std::fs::create_dir(server.path("empty")).unwrap();
    assert!(list("empty", Some(5)).is_empty());
    symlink("circle", server.path("circle")).unwrap();
    for (name, code) in
        [("missing", "not_found"), ("root/z.txt", "invalid_argument"), ("circle", "failed_precondition")]
    {
        assert_eq!(server.code("ListDir", &json!({"path": server.text(name)})), code, "{name}");
    }
}

#[test]
fn new_directories_belong_to_their_user() {
    let server = Server::start();
    let (name, value) = basic("nobody");
    let path = server.text("a/b/c");
    let answer = server.call_with("MakeDir", &json!({"path": path}), &[(name, &value)]).unwrap();
    assert_eq!(answer["entry"]["path"], path);
    assert_eq!(answer["entry"]["owner"], "nobody");
    for made in ["a", "a/b", "a/b/c"] {
        let metadata = std::fs::metadata(server.path(made)).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (65_534, 0o755), "{made}");
    }
    assert_eq!(std::fs::metadata(server.directory()).unwrap().uid(), 0);
    std::fs::write(server.path("file"), "").unwrap();
    for (name, code) in [("a/b", "already_exists"), ("file", "invalid_argument"), ("file/below", "internal")]
    {
        assert_eq!(server.code("MakeDir", &json!({"path": server.text(name)})), code, "{name}");
    }
}

#[test]
fn moving() {
    let server = Server::start();
    let relocate = |from: &str, to: &str| {
        server.call("Move", &json!({"source": server.text(from), "destination": server.text(to)}))
    };
    std::fs::write(server.path("one"), "1").unwrap();
    let answer = relocate("one", "new/dir/two").unwrap();
    assert_eq!(
        (&answer["entry"]["name"], &answer["entry"]["path"]),
        (&json!("two"), &json!(server.text("new/dir/two")))
    );
    assert_eq!(std::fs::read(server.path("new/dir/two")).unwrap(), b"1");
    assert!(!server.path("one").exists());
    // Over a file; a directory with its contents; a link and not what it leads to.
    std::fs::write(server.path("three"), "3").unwrap();
    relocate("three", "new/dir/two").unwrap();
    assert_eq!(std::fs::read(server.path("new/dir/two")).unwrap(), b"3");
    relocate("new", "old").unwrap();
    assert_eq!(std::fs::read(server.path("old/dir/two")).unwrap(), b"3");
    symlink("old", server.path("link")).unwrap();
    let entry = relocate("link", "link2").unwrap()["entry"].clone();
    assert_eq!(entry["isSymlink"], true);
    assert!(server.path("link2").is_symlink() && server.path("old").is_dir());
    // Nothing is made for what cannot be moved.
    assert_eq!(relocate("missing", "made/x").unwrap_err().0, "not_found");
    assert!(!server.path("made").exists());
    std::fs::create_dir(server.path("empty")).unwrap();
    assert_eq!(relocate("empty", "old").unwrap_err().0, "internal");
    let _mount = Mount::tmpfs(&server.path("mounted"), "size=64k");
    assert_eq!(relocate("old/dir/two", "mounted/two").unwrap_err().0, "internal");
    assert!(server.path("old/dir/two").exists());
}

#[test]
fn removing() {
    let server = Server::start();
    let remove = |name: &str| server.call("Remove", &json!({"path": server.text(name)}));
    std::fs::create_dir_all(server.path("tree/a/b")).unwrap();
    std::fs::write(server.path("tree/a/file"), "").unwrap();
    std::fs::write(server.path("kept"), "").unwrap();
    symlink(server.path("kept"), server.path("tree/link")).unwrap();
    symlink("tree", server.path("link")).unwrap();
    remove("link/").unwrap();
    assert!(server.path("tree/a/file").exists() && !server.path("link").is_symlink());
    remove("tree").unwrap();
    assert!(!server.path("tree").exists() && server.path("kept").exists());
    remove("kept").unwrap();
    assert!(!server.path("kept").exists());
    assert_eq!(remove("kept"), Ok(json!({})));
    for root in ["/", "//", "/tmp/.."] {
        assert_eq!(server.code("Remove", &json!({"path": root})), "invalid_argument", "{root}");
    }
}

#[test]
fn paths_that_make_no_sense() {
    let server = Server::start();
    for (path, code) in [
        ("a\0b".to_owned(), "invalid_argument"),
        ("~somebody/x".to_owned(), "invalid_argument"),
        (format!("/{}", "x".repeat(300)), "invalid_argument"),
        (format!("/{}", "x/".repeat(3000)), "invalid_argument"),
    ] {
        for method in ["Stat", "ListDir", "MakeDir", "Remove", "WatchDir", "CreateWatcher"] {
            if method == "WatchDir" {
                let mut stream = server.stream(method, &json!({"path": path}), &[]);
                assert_eq!(stream.next()["error"]["code"], code);
            } else {
                assert_eq!(server.code(method, &json!({"path": path})), code, "{method} {path:.20}");
            }
        }
    }
    // What climbs out of a home directory is where it leads: the client may name any path anyway.
    let entry = server.call("Stat", &json!({"path": "../../../etc/passwd"})).unwrap();
    assert_eq!(entry["entry"]["type"], "FILE_TYPE_FILE");
    let home = server.call("Stat", &json!({"path": "~"})).unwrap();
    assert_eq!(home, server.call("Stat", &json!({"path": ""})).unwrap());
    assert_eq!(home["entry"]["path"], "/root");
}

#[test]
fn names_that_are_not_unicode_do_not_spoil_a_listing() {
    use std::os::unix::ffi::OsStrExt as _;
    let server = Server::start();
    std::fs::write(server.directory().join(std::ffi::OsStr::from_bytes(b"bad\xff")), "").unwrap();
    std::fs::write(server.path("日本 \u{1f980}\n"), "").unwrap();
    let list = server.call("ListDir", &json!({"path": server.directory()})).unwrap();
    assert_eq!(list["entries"][0]["name"], "bad\u{fffd}");
    assert_eq!(list["entries"][1]["name"], "日本 \u{1f980}\n");
}

#[test]
fn the_binary_form_says_the_same() {
    let server = Server::start();
    std::fs::write(server.path("file"), "12345").unwrap();
    let call = |method: &str, message: Vec<u8>| {
        let target = format!("/filesystem.Filesystem/{method}");
        let answer = server.request("POST", &target, &[("content-type", "application/proto")], &message);
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some("application/proto")),
            "{answer:?}"
        );
        answer.body
    };
    let request = StatRequest { path: server.text("file") };
    let stat = StatResponse::decode_from_slice(&call("Stat", request.encode_to_vec())).unwrap();
    let entry = stat.entry.into_option().unwrap();
    assert_eq!((entry.name.as_str(), entry.size, entry.permissions.as_str()), ("file", 5, "-rw-r--r--"));
    let path = server.directory().to_str().unwrap().to_owned();
    let request = ListDirRequest { path, depth: 1 };
    let list = ListDirResponse::decode_from_slice(&call("ListDir", request.encode_to_vec())).unwrap();
    assert_eq!(list.entries, [entry]);
}

#[test]
fn old_clients_hear_what_they_know_and_that_they_are_old() {
    let server = Server::start();
    std::fs::write(server.path("file"), "hello").unwrap();
    let (file, directory) = (server.text("file"), server.text("."));
    let call = |agent: &str, method: &str, message: Value| {
        let headers = [("content-type", "application/json"), ("user-agent", agent)];
        let target = format!("/filesystem.Filesystem/{method}");
        let answer = server.request("POST", &target, &headers, message.to_string().as_bytes());
        (answer.header("x-e2b-legacy-sdk").map(str::to_owned), answer.json())
    };
    let old = |method: &str, message: Value| {
        let (mark, answer) = call("connect-python", method, message);
        assert_eq!(mark.as_deref(), Some("true"), "{method}");
        answer
    };
    let known = json!({"name": "file", "type": "FILE_TYPE_FILE", "path": file});
    assert_eq!(old("Stat", json!({"path": file})), json!({"entry": known}));
    assert_eq!(old("ListDir", json!({"path": directory}))["entries"][0].as_object().unwrap().len(), 3);
    let moved = server.text("moved");
    let answer = old("Move", json!({"source": file, "destination": moved}));
    assert_eq!(answer["entry"], json!({"name": "moved", "type": "FILE_TYPE_FILE", "path": moved}));
    let made = server.text("made");
    let answer = old("MakeDir", json!({"path": made}));
    assert_eq!(answer["entry"], json!({"name": "made", "type": "FILE_TYPE_DIRECTORY", "path": made}));
    assert_eq!(old("Stat", json!({"path": file}))["code"], "not_found");
    for agent in ["connect-python/0.11", "python", ""] {
        let (mark, answer) = call(agent, "Stat", json!({"path": moved}));
        assert_eq!((mark, &answer["entry"]["size"]), (None, &json!("5")), "{agent}");
    }
}

#[test]
fn requests_that_are_none() {
    let server = Server::start();
    for (target, kind, body, status) in [
        ("/filesystem.Filesystem/Stat", "application/json", "{", 400),
        ("/filesystem.Filesystem/Stat", "application/json", r#"{"path": 5}"#, 400),
        ("/filesystem.Filesystem/Stat", "text/plain", "{}", 415),
        ("/filesystem.Filesystem/Fly", "application/json", "{}", 404),
    ] {
        let answer = server.request("POST", target, &[("content-type", kind)], body.as_bytes());
        assert_eq!(answer.status, status, "{target} {body} {answer:?}");
    }
    let (name, value) = basic("somebody-else");
    let refused = server.call_with("Stat", &json!({"path": "/"}), &[(name, &value)]).unwrap_err();
    assert_eq!(refused, ("unauthenticated".to_owned(), "invalid username: 'somebody-else'".to_owned()));
}
