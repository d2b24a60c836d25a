//! `GET /files`, and who may use `/files` at all.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common_files;

use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use common_files::{Answer, Mount, Server, encode, files, noise};
use flate2::read::GzDecoder;
use serde_json::json;
use sha2::{Digest as _, Sha256};

const GZIP: (&str, &str) = ("accept-encoding", "gzip, deflate");

fn unpack(answer: &Answer) -> Vec<u8> {
    assert_eq!(answer.header("content-encoding"), Some("gzip"), "{:?}", answer.headers);
    let mut contents = Vec::new();
    GzDecoder::new(&answer.body[..]).read_to_end(&mut contents).unwrap();
    contents
}

#[test]
fn what_goes_in_comes_out() {
    let server = Server::start();
    for length in [1, 511, 4096, 262_143, 262_144, 262_145, 1_000_003] {
        let contents = noise(length);
        assert_eq!(server.put("file", &contents).status, 200);
        let answer = server.get("file", &[]);
        assert_eq!((answer.status, answer.header("content-length")), (200, Some(&*length.to_string())));
        assert!(answer.body == contents, "{length}");
    }
    assert_eq!(server.put("text", "grüße".as_bytes()).status, 200);
    let answer = server.get("text", &[]);
    assert_eq!(answer.body, "grüße".as_bytes());
    for (header, value) in [
        ("content-type", "text/plain; charset=utf-8"),
        ("content-disposition", "inline; filename=text"),
        ("vary", "Accept-Encoding"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(answer.header(header), Some(value));
    }
    assert!(answer.header("last-modified").unwrap().ends_with("GMT"));
}

#[test]
fn what_gets_smaller_is_compressed_for_who_takes_it() {
    let server = Server::start();
    let text: Vec<u8> = (0..200_000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
    for length in [1000, 262_144, 1_000_003] {
        std::fs::write(server.path("text"), &text[..length]).unwrap();
        let answer = server.get("text", &[GZIP]);
        assert_eq!((answer.status, answer.header("content-length")), (200, None));
        assert_eq!(answer.header("vary"), Some("Accept-Encoding"));
        assert!(unpack(&answer) == text[..length], "{length}");
        assert!(answer.body.len() < length / 2);
        // Noise only for who takes nothing else.
        let noise = noise(length);
        std::fs::write(server.path("noise"), &noise).unwrap();
        let answer = server.get("noise", &[GZIP]);
        assert_eq!((answer.status, answer.header("content-encoding")), (200, None));
        assert!(answer.body == noise);
        let answer = server.get("noise", &[("accept-encoding", "gzip, identity;q=0")]);
        assert!(unpack(&answer) == noise);
    }
}

#[test]
fn a_hundred_mebibytes_both_ways() {
    let server = Server::start();
    let contents = noise(100 << 20);
    assert_eq!(server.put("large", &contents).status, 200);
    assert!(std::fs::read(server.path("large")).unwrap() == contents);
    let answer = server.get("large", &[]);
    assert_eq!(answer.header("content-length"), Some("104857600"));
    assert!(answer.complete && answer.body == contents);
}

#[test]
fn an_empty_file_has_a_length() {
    let server = Server::start();
    server.put("empty", b"");
    for headers in [&[][..], &[GZIP]] {
        let answer = server.get("empty", headers);
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));
        assert_eq!((answer.header("transfer-encoding"), answer.header("content-encoding")), (None, None));
    }
    let answer = server.get("empty", &[("range", "bytes=0-")]);
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));
}

#[test]
fn files_whose_size_is_a_lie() {
    let server = Server::start();
    let read = |path: &str, headers: &[(&str, &str)]| server.request("GET", &files(path), headers, b"");
    for path in ["/proc/sys/kernel/random/boot_id", "/proc/version", "/sys/devices/system/cpu/online"] {
        let expected = std::fs::read(path).unwrap();
        let answer = read(path, &[]);
        assert_eq!((answer.status, &answer.body), (200, &expected), "{path}");
        assert_eq!(answer.header("content-length"), Some(&*expected.len().to_string()), "{path}");
        assert_eq!(unpack(&read(path, &[("accept-encoding", "gzip, *;q=0")])), expected, "{path}");
        let part = read(path, &[("range", "bytes=1-3")]);
        assert_eq!((part.status, &part.body[..]), (206, &expected[1..4]), "{path}");
    }
    // Longer than a piece: nobody knows the length beforehand, and a part of it makes no sense.
    let path = "/proc/kallsyms";
    let expected = std::fs::read(path).unwrap();
    assert!(expected.len() > 256 << 10);
    for headers in [&[][..], &[("range", "bytes=0-9")]] {
        let answer = read(path, headers);
        assert_eq!((answer.status, answer.header("transfer-encoding")), (200, Some("chunked")));
        assert!(answer.complete && answer.body == expected);
    }
    assert!(unpack(&read(path, &[GZIP])) == expected);
    assert_eq!(server.request("HEAD", &files(path), &[], b"").status, 200);
}

#[test]
fn parts_of_a_file() {
    let server = Server::start();
    let large = noise(3 << 20);
    std::fs::write(server.path("large"), &large).unwrap();
    std::fs::write(server.path("small"), b"0123456789").unwrap();
    let part = |name: &str, range: &str| server.get(name, &[("range", range)]);
    for (range, content_range, expected) in [
        ("bytes=0-4", "bytes 0-4/10", "01234"),
        ("bytes=5-", "bytes 5-9/10", "56789"),
        ("bytes=-3", "bytes 7-9/10", "789"),
        ("bytes=9-99", "bytes 9-9/10", "9"),
    ] {
        let answer = part("small", range);
        assert_eq!((answer.status, answer.header("content-range")), (206, Some(content_range)));
        assert_eq!(
            (answer.text(), answer.header("content-length")),
            (expected, Some(&*expected.len().to_string()))
        );
    }
    let answer = part("large", "bytes=1000000-2999999");
    assert_eq!((answer.status, answer.header("content-length")), (206, Some("2000000")));
    assert!(answer.body == large[1_000_000..3_000_000]);
    for range in ["bytes=10-", "bytes=5-3", "bytes=x", "bytes=-0"] {
        let answer = part("small", range);
        assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */10")), "{range}");
        answer.message();
    }
    for range in ["lines=1-2", "bytes=0-9,0-9"] {
        assert_eq!(
            (part("small", range).status, part("small", range).text()),
            (200, "0123456789"),
            "{range}"
        );
    }
    // Several parts.
    for (name, contents) in [("small", &b"0123456789"[..]), ("large", &large)] {
        let answer = part(name, "bytes=0-1,4-5,-2");
        let kind = answer.header("content-type").unwrap().to_owned();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (206, Some(&*answer.body.len().to_string()))
        );
        let mut rest = &answer.body[..];
        let size = contents.len();
        for (start, end) in [(0, 1), (4, 5), (size - 2, size - 1)] {
            let head = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
            let text = std::str::from_utf8(&rest[..head]).unwrap();
            assert!(text.contains(&format!("--{boundary}\r\n")), "{text}");
            assert!(text.contains(&format!("Content-Range: bytes {start}-{end}/{size}")), "{text}");
            assert_eq!(&rest[head + 4..head + 6], &contents[start..=end]);
            rest = &rest[head + 6..];
        }
        assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());
    }
}

#[test]
fn a_part_is_never_compressed() {
    let server = Server::start();
    std::fs::write(server.path("file"), b"0123456789").unwrap();
    let answer = server.get("file", &[GZIP, ("range", "bytes=0-1")]);
    assert_eq!((answer.status, answer.text(), answer.header("content-encoding")), (206, "01", None));
    for headers in [
        &[("accept-encoding", "gzip, identity;q=0"), ("range", "bytes=0-1")][..],
        &[("accept-encoding", "identity;q=0"), ("range", "bytes=0-1")],
        &[("accept-encoding", "br, *;q=0")],
    ] {
        let answer = server.get("file", headers);
        assert_eq!(answer.status, 406, "{headers:?}");
        answer.message();
    }
    // What is not there is told before the encoding is looked at.
    assert_eq!(server.get("missing", &[("accept-encoding", "*;q=0")]).status, 404);
    let answer = server.get("file", &[("accept-encoding", "identity, gzip")]);
    assert_eq!((answer.text(), answer.header("content-encoding")), ("0123456789", None));
}

#[test]
fn conditions() {
    let server = Server::start();
    std::fs::write(server.path("file"), b"0123456789").unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500);
    std::fs::File::options().write(true).open(server.path("file")).unwrap().set_modified(time).unwrap();
    let (before, changed) = ("Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(server.get("file", &[]).header("last-modified"), Some(changed));
    for (headers, status) in [
        (&[("if-modified-since", changed)][..], 304),
        (&[("if-modified-since", before)], 200),
        (&[("if-unmodified-since", before)], 412),
        (&[("if-unmodified-since", changed)], 200),
        (&[("if-none-match", "*")], 304),
        (&[("if-match", "\"x\"")], 412),
        (&[("range", "bytes=0-1"), ("if-range", changed)], 206),
        (&[("range", "bytes=0-1"), ("if-range", before)], 200),
        (&[GZIP, ("if-modified-since", before)], 200),
    ] {
        let answer = server.get("file", headers);
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(answer.header("content-encoding"), None);
        if status == 304 {
            assert_eq!(answer.header("last-modified"), Some(changed));
        }
    }
}

#[test]
fn a_head_without_a_body() {
    let server = Server::start();
    std::fs::write(server.path("small.json"), b"0123456789").unwrap();
    std::fs::write(server.path("large.json"), vec![b' '; 1 << 20]).unwrap();
    for (name, length) in [("small.json", "10"), ("large.json", "1048576")] {
        let head =
            |headers: &[(&str, &str)]| server.request("HEAD", &files(&server.text(name)), headers, b"");
        let answer = head(&[]);
        assert_eq!((answer.status, answer.header("content-length")), (200, Some(length)));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        let part = head(&[("range", "bytes=2-5")]);
        assert_eq!((part.status, part.header("content-length")), (206, Some("4")));
        let packed = head(&[("accept-encoding", "gzip, identity;q=0")]);
        assert_eq!((packed.status, packed.header("content-encoding")), (200, Some("gzip")));
    }
    assert_eq!(server.request("HEAD", &files(&server.text("missing")), &[], b"").status, 404);
}

#[test]
fn names_in_headers() {
    let server = Server::start();
    std::fs::create_dir_all(server.path("a/b")).unwrap();
    for (name, expected) in [
        ("a/b/my file.txt", r#"inline; filename="my file.txt""#),
        (r#"a"b.txt"#, r#"inline; filename="a\"b.txt""#),
        ("日本.txt", "inline; filename*=utf-8''%E6%97%A5%E6%9C%AC.txt"),
        ("line\nbreak", "inline; filename*=utf-8''line%0Abreak"),
        (".hidden", "inline; filename=.hidden"),
    ] {
        std::fs::write(server.path(name), "x").unwrap();
        let answer = server.get(name, &[]);
        assert_eq!((answer.status, answer.header("content-disposition")), (200, Some(expected)));
    }
}

#[test]
fn what_is_not_a_file() {
    let server = Server::start();
    let get = |path: &str| server.request("GET", &files(path), &[], b"");
    let missing = server.text("missing");
    let answer = get(&missing);
    assert_eq!((answer.status, answer.message()), (404, format!("path '{missing}' does not exist")));
    std::fs::write(server.path("file"), "").unwrap();
    assert_eq!(get(&server.text("file/below")).status, 404);
    let answer = get(server.directory().to_str().unwrap());
    assert_eq!((answer.status, answer.message().contains("is a directory")), (400, true));
    rustix::fs::mkfifoat(rustix::fs::CWD, server.path("pipe"), rustix::fs::Mode::RWXU).unwrap();
    symlink("circle", server.path("circle")).unwrap();
    for path in [
        server.text("pipe"),
        server.text("circle"),
        "/dev/zero".to_owned(),
        "a\0b".to_owned(),
        "~somebody/x".to_owned(),
        format!("/{}", "x".repeat(300)),
        format!("/{}", "x/".repeat(4000)),
    ] {
        let answer = get(&path);
        assert_eq!(answer.status, 400, "{path:.40}");
        answer.message();
    }
    // An empty path is the home directory.
    assert_eq!(server.request("GET", "/files", &[], b"").status, 400);
    let answer = server.request("GET", "/files?path=x&signature_expiration=soon", &[], b"");
    assert_eq!(answer.status, 400);
    let answer = server.request("GET", "/files?path=/etc/hostname&username=somebody-else", &[], b"");
    assert_eq!((answer.status, answer.message()), (401, "invalid username: 'somebody-else'".to_owned()));
    let answer = server.request("DELETE", "/files?path=x", &[], b"");
    assert_eq!(answer.status, 405);
}

#[test]
fn relative_paths_begin_at_home() {
    let server = Server::start();
    std::fs::write(server.path("file"), "here").unwrap();
    let relative = format!("../{}", server.text("file").trim_start_matches('/'));
    for path in [relative.clone(), format!("~/{relative}")] {
        let answer = server.request("GET", &files(&path), &[], b"");
        assert_eq!((answer.status, answer.text()), (200, "here"), "{path}");
    }
}

#[test]
fn a_file_that_is_cut_meanwhile_is_not_taken_for_complete() {
    let server = Server::start();
    std::fs::write(server.path("file"), noise(32 << 20)).unwrap();
    let stream = server.begin("GET", &files(&server.text("file")), &[]);
    // Until something came, so that the answer promises the whole length.
    stream.peek(&mut [0]).unwrap();
    std::fs::File::options().write(true).open(server.path("file")).unwrap().set_len(1 << 20).unwrap();
    let answer = Answer::read(stream, "GET");
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("33554432")));
    assert!(!answer.complete && answer.body.len() < 32 << 20);
}

#[test]
fn readers_that_do_not_read_harm_nobody() {
    let server = Server::start();
    std::fs::write(server.path("file"), noise(16 << 20)).unwrap();
    let idle: Vec<_> = (0..40).map(|_| server.begin("GET", &files(&server.text("file")), &[])).collect();
    for stream in &idle {
        stream.peek(&mut [0]).unwrap();
    }
    assert_eq!(server.get("file", &[]).body.len(), 16 << 20);
    assert!(server.put("other", b"x").status == 200);
    assert_eq!(server.descriptors("/file"), 40);
    drop(idle);
    common_files::eventually("files are closed", || server.descriptors("/file") == 0);
}

#[test]
fn files_on_a_small_file_system() {
    let server = Server::start();
    let _mount = Mount::tmpfs(&server.path("small"), "size=8m");
    let contents = noise(2 << 20);
    assert_eq!(server.put("small/file", &contents).status, 200);
    assert!(server.get("small/file", &[]).body == contents);
}

fn sign(path: &str, operation: &str, user: &str, token: &str, expires: Option<u64>) -> String {
    let mut text = format!("{path}:{operation}:{user}:{token}");
    if let Some(expires) = expires {
        text += &format!(":{expires}");
    }
    format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
}

#[test]
fn signatures() {
    const TOKEN: &str = "the-token-of-this-sandbox";
    let server = Server::start();
    let path = server.text("file");
    server.put("file", b"secret");
    let init = json!({"accessToken": TOKEN}).to_string();
    let kind = ("content-type", "application/json");
    assert_eq!(server.request("POST", "/init", &[kind], init.as_bytes()).status, 204);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let get = |query: &str, headers: &[(&str, &str)]| {
        server.request("GET", &format!("{}{query}", files(&path)), headers, b"")
    };
    let query = |user: &str, expires: Option<u64>, signature: &str| {
        let user = if user.is_empty() { String::new() } else { format!("&username={user}") };
        let expires = expires.map(|at| format!("&signature_expiration={at}")).unwrap_or_default();
        format!("{user}{expires}&signature={}", encode(signature))
    };

    assert_eq!(get("", &[("x-access-token", TOKEN)]).text(), "secret");
    for (user, expires) in [("", None), ("root", None), ("", Some(now + 100)), ("nobody", Some(now + 100))] {
        let signature = sign(&path, "read", user, TOKEN, expires);
        assert_eq!(get(&query(user, expires, &signature), &[]).text(), "secret", "{user} {expires:?}");
    }
    let refused = |answer: &Answer, message: &str| {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.text().trim(), json!({"code": 401, "message": message}).to_string());
    };
    refused(&get("", &[]), "missing signature query parameter");
    refused(&get("", &[("x-access-token", "wrong")]), "access token present in header but does not match");
    let good = sign(&path, "read", "", TOKEN, None);
    refused(&get(&query("", None, "v1_nonsense"), &[]), "invalid signature");
    refused(&get(&query("root", None, &good), &[]), "invalid signature");
    refused(&get(&query("", Some(now + 100), &good), &[]), "invalid signature");
    refused(&get(&query("", None, &sign(&path, "write", "", TOKEN, None)), &[]), "invalid signature");
    let expired = sign(&path, "read", "", TOKEN, Some(now - 10));
    refused(&get(&query("", Some(now - 10), &expired), &[]), "signature is already expired");
    // A signature for what is not there is as good as any.
    let missing = server.text("missing");
    let signature = sign(&missing, "read", "", TOKEN, None);
    let answer =
        server.request("GET", &format!("{}{}", files(&missing), query("", None, &signature)), &[], b"");
    assert_eq!((answer.status, answer.message()), (404, format!("path '{missing}' does not exist")));

    let put = |query: &str| {
        let kind = ("content-type", "application/octet-stream");
        server.request("POST", &format!("{}{query}", files(&path)), &[kind], b"new")
    };
    refused(&put(""), "missing signature query parameter");
    refused(&put(&query("", None, &good)), "invalid signature");
    assert_eq!(std::fs::read(server.path("file")).unwrap(), b"secret");
    assert_eq!(put(&query("", None, &sign(&path, "write", "", TOKEN, None))).status, 200);
    assert_eq!(std::fs::read(server.path("file")).unwrap(), b"new");
    assert_eq!(server.request("HEAD", &files(&path), &[], b"").status, 401);
    assert_eq!(server.request("HEAD", &files(&path), &[("x-access-token", TOKEN)], b"").status, 200);
}
