//! `/init` where a metadata service knows whose sandbox this is: a small one that speaks HTTP as Firecracker's does.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Daemon, eventually};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

/// The service. It says what it is told to say; nothing when that is `None`.
struct Service {
    address: String,
    says: Arc<Mutex<Option<Value>>>,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let says = Arc::<Mutex<Option<Value>>>::default();
        std::thread::spawn({
            let says = Arc::clone(&says);
            move || {
                for stream in listener.incoming() {
                    answer(stream.unwrap(), says.lock().unwrap().clone());
                }
            }
        });
        Self { address, says }
    }

    fn say(&self, facts: Value) {
        *self.says.lock().unwrap() = Some(facts);
    }

    fn knows(&self, token: &str) {
        self.say(json!({"accessTokenHash": hash(token)}));
    }

    fn daemon(&self) -> Daemon {
        Daemon::with_args(&["-mmds", &self.address])
    }
}

fn hash(token: &str) -> String {
    Sha512::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(stream: TcpStream, facts: Option<Value>) {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or_default() == 0 {
            return;
        }
    }
    let head = head.to_ascii_lowercase();
    let (status, body) = match facts {
        None => ("404 not found", String::new()),
        Some(_) if head.starts_with("put /latest/api/token http/1.1\r\n") => {
            assert!(head.contains("x-metadata-token-ttl-seconds: 60\r\n"), "{head}");
            ("200 ok", "pass".to_owned())
        }
        Some(facts) if head.starts_with("get / http/1.1\r\n") => {
            assert!(head.contains("x-metadata-token: pass\r\n"), "{head}");
            assert!(head.contains("accept: application/json\r\n"), "{head}");
            ("200 ok", facts.to_string())
        }
        Some(_) => ("400 what", head.clone()),
    };
    let mut stream = reader.into_inner();
    let length = body.len();
    let _ =
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.read(&mut [0]);
}

fn init(daemon: &Daemon, token: Option<&str>) -> u16 {
    let body = token.map_or(json!({}), |token| json!({"accessToken": token, "lifecycleID": "new"}));
    daemon.client().http("POST", "/init", &body.to_string()).status
}

#[test]
fn the_service_decides_who_may_initialise() {
    let service = Service::start();
    let daemon = service.daemon();
    service.knows("a");
    // Whoever comes first may be wrong.
    assert_eq!(init(&daemon, Some("b")), 401);
    assert_eq!(init(&daemon, None), 401);
    assert_eq!(init(&daemon, Some("a")), 204);
    // Another sandbox, made of a snapshot of this one.
    service.knows("b");
    assert_eq!(init(&daemon, Some("c")), 401);
    assert_eq!(init(&daemon, Some("b")), 204);
    assert_eq!(daemon.client().token("b").http("GET", "/envs", "").status, 200);
    assert_eq!(daemon.client().token("a").http("GET", "/envs", "").status, 401);
    // Nothing known: only the token held, and no way to be without one.
    service.say(json!({}));
    assert_eq!(init(&daemon, Some("a")), 401);
    let answer = daemon.client().http("POST", "/init", "{}");
    assert_eq!((answer.status, answer.text()), (401, "access token reset not authorized"));
    assert_eq!(init(&daemon, Some("b")), 204);
    service.knows("");
    assert_eq!(init(&daemon, None), 204);
    assert_eq!(daemon.client().http("GET", "/envs", "").status, 200);
}

#[test]
fn without_an_answer_the_first_one_is_believed_and_then_the_token() {
    let service = Service::start();
    let daemon = service.daemon();
    assert_eq!(init(&daemon, Some("a")), 204);
    assert_eq!(init(&daemon, Some("b")), 401);
    assert_eq!(init(&daemon, Some("a")), 204);
    // Nobody listens there.
    let daemon = Daemon::with_args(&["-mmds", "127.0.0.1:1"]);
    assert_eq!(init(&daemon, Some("a")), 204);
    assert_eq!(init(&daemon, Some("b")), 401);
    // Not in such a machine at all.
    service.knows("x");
    let daemon = Daemon::with_args(&["-mmds", &service.address, "-isnotfc"]);
    assert_eq!(init(&daemon, Some("a")), 204);
}

#[test]
fn the_service_says_later_whose_sandbox_it_is() {
    let service = Service::start();
    let daemon = service.daemon();
    assert_eq!(init(&daemon, None), 204);
    let envs = || daemon.client().http("GET", "/envs", "").json();
    assert_eq!(envs(), json!({"E2B_SANDBOX": "true"}));
    service.say(json!({"instanceID": "i", "envID": "t", "address": "http://logs", "other": [1]}));
    let expected = json!({"E2B_SANDBOX": "true", "E2B_SANDBOX_ID": "i", "E2B_TEMPLATE_ID": "t"});
    eventually("the names", || envs() == expected);
}

#[test]
fn a_service_that_says_nonsense_or_nothing_stops_nobody() {
    let service = Service::start();
    let daemon = service.daemon();
    for nonsense in [json!([1]), json!("x"), json!({"accessTokenHash": 7}), json!({"x": "y".repeat(100_000)})]
    {
        service.say(nonsense);
        assert_eq!(init(&daemon, Some("a")), 204);
    }
    // It takes the connection and is silent: the others have to wait for their turn, and hear so.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let daemon = Daemon::with_args(&["-mmds", &address]);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| init(&daemon, Some("a")));
        std::thread::sleep(Duration::from_millis(300));
        let body = json!({"accessToken": "a"}).to_string();
        let answer = daemon.client().http("POST", "/init", &body);
        assert_eq!(answer.status, 503, "{answer:?}");
        assert_eq!(first.join().unwrap(), 204);
        assert_eq!(daemon.client().http("GET", "/health", "").status, 204);
    });
    assert!(begin.elapsed() < Duration::from_secs(18), "{:?}", begin.elapsed());
}
