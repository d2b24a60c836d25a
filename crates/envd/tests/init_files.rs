//! Files of the system that `/init` changes, in a directory that stands for the root; volumes, in a namespace of their
//! own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{Client, Daemon, eventually};
use serde_json::{Value, json};

const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const OWN: &str = "usr/local/share/ca-certificates/e2b-ca.crt";

struct Machine {
    root: tempfile::TempDir,
    daemon: Daemon,
}

impl Machine {
    fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc/ssl/certs", "run"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
        fs::write(root.path().join(BUNDLE), "public\n").unwrap();
        let daemon = Self::serve(root.path());
        Self { root, daemon }
    }

    fn serve(root: &Path) -> Daemon {
        Daemon::with_args(&["-system-root", root.to_str().unwrap()])
    }

    fn init(&self, body: &Value) -> u16 {
        init(&self.daemon.client(), body)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.path().join(path)).unwrap_or_default()
    }
}

fn init(client: &Client, body: &Value) -> u16 {
    client.http("POST", "/init", &body.to_string()).status
}

/// Something that has the form of a certificate.
fn certificate(number: u8) -> String {
    let der = STANDARD.encode([0x30, 2, number, number]);
    format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n")
}

#[test]
fn certificates_are_trusted_once_and_until_others_come() {
    let mut machine = Machine::start();
    let (first, second) = (certificate(1), certificate(2));
    assert_eq!(machine.init(&json!({"caBundle": first})), 204);
    assert_eq!(machine.read(BUNDLE), format!("public\n{first}"));
    assert_eq!(machine.read(OWN), first);
    // The same ones: nothing is touched, however they are written.
    let modified = || fs::metadata(machine.root.path().join(BUNDLE)).unwrap().modified().unwrap();
    let before = modified();
    assert_eq!(machine.init(&json!({"caBundle": format!("\n{}", first.replace('\n', "\r\n"))})), 204);
    assert_eq!(machine.init(&json!({"caBundle": ""})), 204);
    assert_eq!(machine.init(&json!({})), 204);
    assert_eq!(modified(), before);
    assert_eq!(machine.init(&json!({"caBundle": second})), 204);
    assert_eq!(machine.read(BUNDLE), format!("public\n{second}"));
    // A daemon that has just started knows which ones were there before.
    machine.daemon = Machine::serve(machine.root.path());
    assert_eq!(machine.init(&json!({"caBundle": second})), 204);
    assert_eq!(machine.read(BUNDLE), format!("public\n{second}"));
    machine.daemon = Machine::serve(machine.root.path());
    assert_eq!(machine.init(&json!({"caBundle": first})), 204);
    assert_eq!(machine.read(BUNDLE), format!("public\n{first}"));
    assert_eq!(machine.read(OWN), first);
    // All at once: one of them is there.
    std::thread::scope(|scope| {
        for number in 3..11 {
            let machine = &machine;
            scope.spawn(move || assert_eq!(machine.init(&json!({"caBundle": certificate(number)})), 204));
        }
    });
    let bundle = machine.read(BUNDLE);
    assert_eq!(
        (bundle.matches("BEGIN").count(), bundle.ends_with(&machine.read(OWN))),
        (1, true),
        "{bundle}"
    );
}

#[test]
fn what_is_no_certificate_changes_nothing() {
    let machine = Machine::start();
    let long = certificate(1).repeat(10_000);
    for bad in ["garbage", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----", long.as_str()] {
        assert_eq!(machine.init(&json!({"caBundle": bad, "envVars": {"X": "1"}})), 400);
    }
    assert_eq!((machine.read(BUNDLE), machine.read(OWN)), ("public\n".into(), String::new()));
    assert_eq!(machine.daemon.client().http("GET", "/envs", "").json(), json!({"E2B_SANDBOX": "true"}));
}

#[test]
fn a_bundle_that_cannot_be_written_is_an_error_that_says_so() {
    let machine = Machine::start();
    fs::remove_file(machine.root.path().join(BUNDLE)).unwrap();
    fs::create_dir(machine.root.path().join(BUNDLE)).unwrap();
    let body = json!({"caBundle": certificate(1), "envVars": {"X": "1"}}).to_string();
    let answer = machine.daemon.client().http("POST", "/init", &body);
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("caBundle") && answer.text().contains(BUNDLE), "{}", answer.text());
    // Everything else has been done, and the next attempt does this, too.
    assert_eq!(machine.daemon.client().http("GET", "/envs", "").json()["X"], "1");
    fs::remove_dir(machine.root.path().join(BUNDLE)).unwrap();
    assert_eq!(machine.daemon.client().http("POST", "/init", &body).status, 204);
    assert_eq!(machine.read(BUNDLE), certificate(1));
}

#[test]
fn the_hosts_services_have_a_name() {
    let machine = Machine::start();
    for (ip, url) in [("192.0.2.1", "http://192.0.2.1"), ("fd00::7", "http://[fd00::7]")] {
        assert_eq!(machine.init(&json!({"hyperloopIP": ip})), 204);
        let envs = machine.daemon.client().http("GET", "/envs", "").json();
        assert_eq!(envs["E2B_EVENTS_ADDRESS"], url);
        let expected = format!("127.0.0.1 localhost\n{ip} events.e2b.local\n");
        eventually("the name", || machine.read("etc/hosts") == expected);
    }
    assert_eq!(machine.init(&json!({"hyperloopIP": "events"})), 400);
    // A client cannot say otherwise.
    assert_eq!(machine.init(&json!({"envVars": {"E2B_EVENTS_ADDRESS": "x"}})), 204);
    let envs = machine.daemon.client().http("GET", "/envs", "").json();
    assert_eq!(envs["E2B_EVENTS_ADDRESS"], "http://[fd00::7]");
}

#[test]
fn programs_can_read_where_they_are() {
    let machine = Machine::start();
    for id in ["a", "b"] {
        assert_eq!(machine.init(&json!({"sandboxId": id, "templateId": "t"})), 204);
        eventually("the files", || {
            machine.read("run/e2b/.E2B_SANDBOX_ID") == id
                && machine.read("run/e2b/.E2B_TEMPLATE_ID") == "t"
                && machine.read("run/e2b/.E2B_SANDBOX") == "true"
        });
    }
}

#[test]
fn volumes_are_mounted_by_a_guest_and_nobody_waits_for_them() {
    let machine = Machine::start();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    // 192.0.2.0/24 is for documentation: nobody answers.
    let volumes = |names: &[&str]| {
        let volumes: Vec<Value> = names
            .iter()
            .map(|name| json!({"nfs_target": "192.0.2.1:/x", "path": at(name).to_str().unwrap()}))
            .collect();
        json!({"volumeMounts": volumes, "lifecycleID": "a"})
    };
    assert_eq!(machine.init(&volumes(&["elsewhere"])), 204);
    assert_eq!(machine.init(&json!({"volumeMounts": [{"nfs_target": "x", "path": "y"}]})), 400);
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--uts", "--mount", "--propagation", "private", "--"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no namespaces here");
        return;
    }
    let root = machine.root.path().to_str().unwrap();
    let mut command = unshare();
    command.arg(env!("CARGO_BIN_EXE_envd"));
    let guest = Daemon::with_command(&mut command, &["-guest", "-system-root", root, "-verbose"]);
    let begin = Instant::now();
    assert_eq!(init(&guest.client(), &volumes(&["one", "two"])), 204);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    eventually("the mount points", || at("one").is_dir() && at("two").is_dir());
    assert_eq!(guest.client().http("GET", "/health", "").status, 204);
    assert!(!at("elsewhere").exists());
}
