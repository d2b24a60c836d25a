//! `POST /files`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common_files;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::{MetadataExt as _, symlink};

use common_files::{Answer, Mount, Server, eventually, files, noise};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

const RAW: (&str, &str) = ("content-type", "application/octet-stream");
const FORM: (&str, &str) = ("content-type", "multipart/form-data; boundary=limit");

fn pack(contents: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(contents).unwrap();
    encoder.finish().unwrap()
}

fn form(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (disposition, contents) in parts {
        body.extend_from_slice(b"--limit\r\nContent-Disposition: form-data; ");
        body.extend_from_slice(disposition.as_bytes());
        body.extend_from_slice(b"\r\nContent-Type: application/octet-stream\r\n\r\n");
        body.extend_from_slice(contents);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--limit--\r\n");
    body
}

fn named(name: &str) -> String {
    format!("name=\"file\"; filename=\"{name}\"")
}

#[test]
fn the_answer_names_the_file() {
    let server = Server::start();
    let answer = server.put("new/dir/file.txt", b"hello");
    let path = server.text("new/dir/file.txt");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!([{"name": "file.txt", "path": path, "type": "file"}]));
    assert_eq!(fs::read(path).unwrap(), b"hello");
    let answer = server.put_with("other", &[("x-metadata-Who", "me"), ("X-Metadata-who", "you")], b"");
    assert_eq!(answer.json()[0]["metadata"], json!({"who": "me"}));
}

#[test]
fn files_belong_to_their_user() {
    let server = Server::start();
    fs::write(server.path("mine"), "a long text that is cut").unwrap();
    let inode = fs::metadata(server.path("mine")).unwrap().ino();
    symlink("mine", server.path("link")).unwrap();
    for name in ["new/dir/file", "mine", "link"] {
        let target = format!("{}&username=nobody", files(&server.text(name)));
        assert_eq!(server.request("POST", &target, &[RAW], b"short").status, 200, "{name}");
        let metadata = fs::metadata(server.path(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (65_534, 0o644), "{name}");
        assert_eq!(fs::read(server.path(name)).unwrap(), b"short");
    }
    assert_eq!(fs::metadata(server.path("new/dir")).unwrap().uid(), 65_534);
    // Written in place: it is still the same file, and a link is still a link.
    assert_eq!(fs::metadata(server.path("mine")).unwrap().ino(), inode);
    assert!(server.path("link").is_symlink());
    // A link to what is not there yet.
    symlink("later", server.path("ahead")).unwrap();
    assert_eq!(server.put("ahead", b"x").status, 200);
    assert_eq!(fs::read(server.path("later")).unwrap(), b"x");
}

#[test]
fn every_way_to_send_it() {
    let server = Server::start();
    let contents = noise(3_000_001);
    let read = |name: &str| fs::read(server.path(name)).unwrap();
    // Compressed.
    let answer = server.put_with("gzip", &[("content-encoding", "gzip")], &pack(&contents));
    assert!(answer.status == 200 && read("gzip") == contents);
    let answer = server.put_with("plain", &[("content-encoding", "identity")], &contents);
    assert!(answer.status == 200 && read("plain") == contents);
    // In chunks of all sizes, without a length.
    let target = files(&server.text("chunked"));
    let mut stream = server.begin("POST", &target, &[RAW, ("transfer-encoding", "chunked")]);
    let mut rest = &contents[..];
    let mut size = 1;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).unwrap();
        stream.write_all(chunk).unwrap();
        stream.write_all(b"\r\n").unwrap();
        rest = after;
        size *= 3;
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(Answer::read(stream, "POST").status, 200);
    assert!(read("chunked") == contents);
    // In a form; the path in the query wins.
    let body = form(&[("name=\"note\"", b"x"), (&named("elsewhere"), &contents)]);
    let answer = server.request("POST", &files(&server.text("form")), &[FORM], &body);
    assert!(answer.status == 200 && read("form") == contents, "{answer:?}");
    // A compressed form.
    let target = files(&server.text("gzip-form"));
    let answer = server.request("POST", &target, &[FORM, ("content-encoding", "gzip")], &pack(&body));
    assert!(answer.status == 200 && read("gzip-form") == contents, "{answer:?}");
}

#[test]
fn many_files_in_a_form() {
    let server = Server::start();
    let (one, two) = (server.text("a/one"), server.text("b/zwei ü.txt"));
    let body = form(&[(&named(&one), b"1"), (&named(&two), b"22"), ("name=\"other\"; filename=\"x\"", b"3")]);
    let answer = server.request("POST", "/files", &[FORM, ("x-metadata-k", "v")], &body);
    let expected = json!([
        {"metadata": {"k": "v"}, "name": "one", "path": one, "type": "file"},
        {"metadata": {"k": "v"}, "name": "zwei ü.txt", "path": two, "type": "file"},
    ]);
    assert_eq!((answer.status, answer.json()), (200, expected));
    assert_eq!((fs::read(&one).unwrap(), fs::read(&two).unwrap()), (b"1".to_vec(), b"22".to_vec()));
    // The same path twice: the first one counts, and the client hears of it.
    let body = form(&[(&named(&one), b"first"), (&named(&one), b"second")]);
    let answer = server.request("POST", "/files", &[FORM], &body);
    assert_eq!(answer.status, 400);
    answer.message();
    assert_eq!(fs::read(&one).unwrap(), b"first");
    let answer = server.request("POST", "/files", &[FORM], &form(&[("name=\"file\"", b"x")]));
    assert_eq!(answer.status, 400);
    let answer = server.request("POST", "/files", &[FORM], &form(&[]));
    assert_eq!((answer.status, answer.json()), (200, json!([])));
}

#[test]
fn four_at_once_into_a_new_directory() {
    let server = Server::start();
    let contents: Vec<_> = (0..4_usize).map(|number| noise(500_000 + number)).collect();
    std::thread::scope(|scope| {
        for (number, contents) in contents.iter().enumerate() {
            let server = &server;
            scope.spawn(move || assert_eq!(server.put(&format!("a/b/c/d/{number}"), contents).status, 200));
        }
    });
    for (number, contents) in contents.iter().enumerate() {
        assert!(fs::read(server.path(&format!("a/b/c/d/{number}"))).unwrap() == *contents);
    }
}

#[test]
fn metadata_is_replaced_with_the_file() {
    let server = Server::start();
    let metadata = |name: &str| {
        let entry = server.call("Stat", &json!({"path": server.text(name)})).unwrap();
        entry["entry"]["metadata"].clone()
    };
    server.put_with("file", &[("x-metadata-a", "1"), ("x-metadata-b", "2")], b"x");
    assert_eq!(metadata("file"), json!({"a": "1", "b": "2"}));
    server.put_with("file", &[("x-metadata-b", "3")], b"x");
    assert_eq!(metadata("file"), json!({"b": "3"}));
    server.put("file", b"x");
    assert_eq!(metadata("file"), Value::Null);
    let long = "v".repeat(5000);
    for (name, value) in
        [("x-metadata-a", long.as_str()), ("x-metadata-a", "tab\there"), ("x-metadata-a", "ü")]
    {
        let answer = server.put_with("other", &[(name, value)], b"x");
        assert_eq!(answer.status, 400);
        answer.message();
    }
    assert!(!server.path("other").exists());
}

#[test]
fn what_cannot_be_uploaded() {
    let server = Server::start();
    fs::create_dir(server.path("dir")).unwrap();
    fs::write(server.path("file"), "kept").unwrap();
    symlink("circle", server.path("circle")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, server.path("pipe"), rustix::fs::Mode::RWXU).unwrap();
    for (name, status) in
        [("dir", 400), ("dir/", 400), ("new/", 400), ("file/below", 500), ("circle", 400), ("pipe", 400)]
    {
        let answer = server.put(name, b"x");
        assert_eq!(answer.status, status, "{name}");
        answer.message();
    }
    let kind = |kind: &'static str| [("content-type", kind)];
    let target = files(&server.text("file"));
    for (target, headers, body) in [
        ("/files", vec![RAW], &b"x"[..]),
        ("/files?path=", vec![RAW], b"x"),
        (&target, vec![], b"x"),
        (&target, kind("text/plain").to_vec(), b"x"),
        (&target, kind("multipart/form-data").to_vec(), b"x"),
        (&target, vec![RAW, ("content-encoding", "br")], b"x"),
        (&target, vec![RAW, ("content-encoding", "gzip, gzip")], b"x"),
        ("/files?path=a%00b", vec![RAW], b"x"),
        ("/files?path=~somebody/x", vec![RAW], b"x"),
        ("/files?path=/dev/null", vec![RAW], b"x"),
    ] {
        let answer = server.request("POST", target, &headers, body);
        assert_eq!(answer.status, 400, "{target} {headers:?}");
        answer.message();
    }
    let answer = server.request("POST", &files(&format!("/tmp/{}", "x".repeat(300))), &[RAW], b"x");
    assert_eq!(answer.status, 400);
    assert_eq!(fs::read(server.path("file")).unwrap(), b"kept");
    // Bodies that are not what they say.
    for (headers, body) in [
        (vec![RAW, ("content-encoding", "gzip")], b"this is not gzip".to_vec()),
        (vec![RAW, ("content-encoding", "gzip")], pack(&noise(1000))[..500].to_vec()),
        (vec![FORM], b"there is no form here".to_vec()),
        (vec![FORM], form(&[(&named("x"), &noise(1000))])[..700].to_vec()),
    ] {
        let answer = server.request("POST", &target, &headers, &body);
        assert_eq!(answer.status, 400, "{headers:?}");
        answer.message();
    }
}

#[test]
fn kernel_files_take_writes() {
    let server = Server::start();
    let path = format!("/proc/{}/oom_score_adj", std::process::id());
    let before: i32 = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
    let wanted = if before < 900 { before + 1 } else { before };
    let answer = server.request("POST", &files(&path), &[RAW], wanted.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(fs::read_to_string(&path).unwrap().trim(), wanted.to_string());
}

#[test]
fn a_full_disk() {
    let server = Server::start();
    let _mount = Mount::tmpfs(&server.path("disk"), "size=4m,nr_inodes=16");
    let full = |length: usize| format!("attempted to write {length} bytes: not enough disk space available");
    // Known beforehand: nothing is touched.
    server.put("disk/kept", b"kept");
    let large = noise(5 << 20);
    for name in ["disk/kept", "disk/new"] {
        let answer = server.put(name, &large);
        assert_eq!((answer.status, answer.message()), (507, full(large.len())));
    }
    assert_eq!(fs::read(server.path("disk/kept")).unwrap(), b"kept");
    assert!(!server.path("disk/new").exists());
    // The same when the client waits for permission to send; it gets the answer instead.
    let length = (10_u64 << 30).to_string();
    let headers = [RAW, ("content-length", length.as_str()), ("expect", "100-continue")];
    let stream = server.begin("POST", &files(&server.text("disk/new")), &headers);
    assert_eq!(Answer::read(stream, "POST").status, 507);
    // Not known beforehand: as much as fits is written.
    let answer = server.put_with("disk/packed", &[("content-encoding", "gzip")], &pack(&vec![7; 8 << 20]));
    assert_eq!(answer.status, 507);
    assert!(answer.message().contains(": not enough disk space available"), "{}", answer.text());
    assert!(fs::metadata(server.path("disk/packed")).unwrap().len() > 0);
    fs::remove_file(server.path("disk/packed")).unwrap();
    let answer =
        server.request("POST", &files(&server.text("disk/form")), &[FORM], &form(&[(&named("x"), &large)]));
    assert_eq!(answer.status, 507);
    fs::remove_file(server.path("disk/form")).unwrap();
    // What a file has already counts when it is replaced.
    let most = noise(4_000_000);
    assert_eq!(server.put("disk/kept", &most).status, 200);
    assert_eq!(server.put("disk/kept", &most[..3_900_000]).status, 200);
    assert!(fs::read(server.path("disk/kept")).unwrap() == most[..3_900_000]);
    // No inodes left.
    let mut number = 0;
    while fs::write(server.path(&format!("disk/{number}")), "").is_ok() {
        number += 1;
    }
    let answer = server.put("disk/one-more", b"");
    assert_eq!((answer.status, answer.message()), (507, "not enough inodes available".to_owned()));
    assert_eq!(server.put("disk/0", b"").status, 200);
    // Elsewhere, life goes on.
    assert_eq!(server.put("elsewhere", b"x").status, 200);
    assert_eq!(server.descriptors("/disk/"), 0);
}

#[test]
fn a_client_that_hangs_up_leaves_what_it_sent() {
    let server = Server::start();
    let contents = noise(2 << 20);
    let length = (contents.len() * 2).to_string();
    let mut stream = server.begin("POST", &files(&server.text("half")), &[RAW, ("content-length", &length)]);
    stream.write_all(&contents).unwrap();
    eventually("the first half is written", || {
        fs::metadata(server.path("half")).is_ok_and(|metadata| metadata.len() == contents.len() as u64)
    });
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    eventually("the file is closed", || server.descriptors("/half") == 0);
    // Room that was taken for the second half has been given back.
    let blocks = fs::metadata(server.path("half")).unwrap().blocks() * 512;
    assert!(blocks <= contents.len() as u64 + 65_536, "{blocks}");
    assert!(fs::read(server.path("half")).unwrap() == contents);
}

#[test]
fn a_client_that_does_not_wait_for_the_answer() {
    let server = Server::start();
    let contents = noise(2 << 20);
    for number in 0..20 {
        let name = format!("dir{number}/file");
        let target = format!("{}&username=nobody", files(&server.text(&name)));
        let length = contents.len().to_string();
        let headers = [RAW, ("content-length", length.as_str()), ("x-metadata-k", "v")];
        let mut stream = server.begin("POST", &target, &headers);
        stream.write_all(&contents).unwrap();
        drop(stream);
    }
    for number in 0..20 {
        let name = format!("dir{number}/file");
        eventually("the upload is finished", || {
            let entry = server.call("Stat", &json!({"path": server.text(&name)}));
            entry.is_ok_and(|entry| entry["entry"]["metadata"] == json!({"k": "v"}))
        });
        assert!(fs::read(server.path(&name)).unwrap() == contents);
        assert_eq!(fs::metadata(server.path(&name)).unwrap().uid(), 65_534);
    }
}

#[test]
fn a_refused_upload_can_read_why() {
    let server = Server::start();
    // Larger than all socket buffers: it is read to the end, so that the client gets to the answer.
    let answer = server.put("", &noise(20 << 20));
    assert_eq!((answer.status, answer.message().contains("directory")), (400, true));
}

#[test]
fn trickling_uploads_hold_no_thread() {
    let server = Server::start();
    let idle: Vec<_> = (0..60)
        .map(|number| {
            let target = files(&server.text(&format!("idle{number}")));
            let mut stream = server.begin("POST", &target, &[RAW, ("content-length", "1000")]);
            stream.write_all(b"begin").unwrap();
            stream
        })
        .collect();
    eventually("all have begun", || {
        (0..60)
            .all(|number| fs::read(server.path(&format!("idle{number}"))).is_ok_and(|read| read == b"begin"))
    });
    assert_eq!(server.put("busy", b"x").status, 200);
    for mut stream in idle {
        stream.write_all(&[b'x'; 995]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
