//! A group of its own for every test, and processes to put into it.
#![allow(dead_code, reason = "each test binary uses a part of this")]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cgroup::Hierarchy;
use rustix::process::Pid;

/// A name below the hierarchy's root that no other test uses.
pub(crate) struct Place {
    pub(crate) hierarchy: Hierarchy,
    pub(crate) name: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = PathBuf::from(format!("coldframe-test-{}-{number}", std::process::id()));
        Self { hierarchy: Hierarchy::discover().expect("cgroup v2 is mounted"), name }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.hierarchy.root().join(&self.name)
    }
}

impl Drop for Place {
    /// What a failed test leaves.
    fn drop(&mut self) {
        let dir = self.dir();
        if !dir.exists() {
            return;
        }
        drop(std::fs::write(dir.join("cgroup.kill"), "1"));
        let deadline = Instant::now() + Duration::from_secs(5);
        while dir.exists() && Instant::now() < deadline {
            for child in self.hierarchy.children(&self.name).unwrap_or_default() {
                drop(std::fs::remove_dir(dir.join(child)));
            }
            drop(std::fs::remove_dir(&dir));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A child of this process that sleeps outside of every test group.
pub(crate) fn sleeper() -> Child {
    Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep starts")
}

pub(crate) fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Collects what a subscriber prints.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).expect("the log is UTF-8")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A subscriber for `tracing::subscriber::set_default`, and what it prints.
pub(crate) fn logger() -> (Log, impl tracing::Subscriber + Send + Sync) {
    // Whether a place in the code logs at all is decided once for all threads. With a subscriber for everybody it is not
    // decided by a test that runs beside and has none.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    (log, subscriber)
}
