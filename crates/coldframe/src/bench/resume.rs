//! `coldframe bench resume`: from a connect request to a paused sandbox until it runs, answers, and has finished a
//! first command.
//!
//! When the processors run, the supervisor says in its log. The floor is a bare restore of what was paused, before each
//! resume. With a depth, the sandbox is paused so often again, with something written each time, and then everything is
//! measured anew, against what it was at first.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::bare::{Bare, BareSamples};
use super::phases::{self, Phases};
use super::report::{Samples, bar};
use super::restore::Request;
use super::server::{Sandbox, Server, settle};

/// What is written before each pause, in memory and on the disk.
const WRITE: &str =
    "head -c 1M /dev/urandom > /dev/shm/written; head -c 256K /dev/urandom > /home/user/written";
/// So much more or less than at first is flat.
const FLAT: f64 = 0.2;
/// Pauses that are shown together.
const SLICE: usize = 200;

pub(crate) async fn run(dir: &Path, count: usize, depth: usize) -> Result<(), String> {
    let server = Server::find(dir)?;
    let sandbox = server.create().await?;
    let outcome = stages(&server, &sandbox, count, depth).await;
    server.kill(&sandbox).await?;
    outcome
}

async fn stages(server: &Server, sandbox: &Sandbox, count: usize, depth: usize) -> Result<(), String> {
    let mut first = Measured::default();
    first.rounds(server, sandbox, count).await?;
    first.print();
    if depth == 0 {
        return Ok(());
    }
    deepen(server, sandbox, depth).await?;
    let mut last = Measured::default();
    last.rounds(server, sandbox, count).await?;
    last.print();
    for (name, last, first) in [
        ("pause acknowledged", &last.pause, &first.pause),
        ("connect answered", &last.answered, &first.answered),
        ("request to processors running", &last.running, &first.running),
    ] {
        let ratio = last.ratio(first);
        bar(name, ratio, "x first", ratio <= 1.0 + FLAT, "<= 1.20 x");
    }
    Ok(())
}

/// Writes, pauses and resumes.
async fn deepen(server: &Server, sandbox: &Sandbox, depth: usize) -> Result<(), String> {
    let (mut pause, mut answered) = (Samples::default(), Samples::default());
    for number in 1..=depth {
        server.command(sandbox, "/bin/sh", &["-c", WRITE]).await?;
        pause.push(server.pause(sandbox).await?);
        answered.push(server.connect(sandbox).await?);
        if number % SLICE == 0 || number == depth {
            println!("{number} pauses deeper");
            std::mem::take(&mut pause).print("  pause acknowledged");
            std::mem::take(&mut answered).print("  connect answered");
        }
    }
    Ok(())
}

#[derive(Default)]
struct Measured {
    floor: BareSamples,
    pause: Samples,
    running: Samples,
    answered: Samples,
    first_command: Samples,
    /// By name, in the order in which they come.
    phases: ByName,
    /// The daemon's first request and the same once more.
    init: ByName,
}

type ByName = Vec<(String, Samples)>;

fn note(all: &mut ByName, phases: Phases) {
    for (name, time) in phases.phases {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some((_, samples)) => samples.push(time),
            None => {
                let mut samples = Samples::default();
                samples.push(time);
                all.push((name, samples));
            }
        }
    }
}

impl Measured {
    async fn rounds(&mut self, server: &Server, sandbox: &Sandbox, count: usize) -> Result<(), String> {
        let mut bare = Bare::start(&server.state).await?;
        let mut outcome = Ok(());
        for _ in 0..count {
            outcome = self.round(server, sandbox, &mut bare).await;
            if outcome.is_err() {
                break;
            }
        }
        bare.finish().await?;
        outcome
    }

    async fn round(&mut self, server: &Server, sandbox: &Sandbox, bare: &mut Bare) -> Result<(), String> {
        self.pause.push(server.pause(sandbox).await?);
        settle().await;
        self.floor.push(loop {
            let request = Request { build: server.build_of(sandbox)?, token: Some(sandbox.token.clone()) };
            match bare.restore(&request) {
                Ok(restored) => break restored,
                // It was compacted meanwhile, and what it was before is gone.
                Err(_) if server.build_of(sandbox)? != request.build => bare.restart(&server.state).await?,
                Err(error) => return Err(error),
            }
        });
        settle().await;
        let (asked, begun) = (Timestamp::now(), Instant::now());
        self.answered.push(server.connect(sandbox).await?);
        server.command(sandbox, "/bin/true", &[]).await?;
        self.first_command.push(begun.elapsed());
        if let Some(resumed) = phases::read(&server.dir(sandbox), phases::RESUMED)? {
            // One host, one clock; should it be set meanwhile, the sample is nonsense that a median ignores.
            self.running.push(Duration::try_from(resumed.at.duration_since(asked)).unwrap_or_default());
            note(&mut self.phases, resumed);
        }
        if let Some(initialised) = phases::read(&server.dir(sandbox), phases::INITIALISED)? {
            note(&mut self.init, initialised);
        }
        Ok(())
    }

    fn print(&self) {
        self.floor.print();
        self.pause.print("pause acknowledged");
        for (name, samples) in &self.phases {
            samples.print(&format!("supervisor: {name}"));
        }
        for (name, samples) in &self.init {
            samples.print(&format!("/init, {name}"));
        }
        if let Some((_, first)) = self.init.first() {
            let p99 = first.percentile(99).as_secs_f64() * 1e3;
            bar("/init after a resume, p99", p99, "ms", p99 <= 50.0, "<= 50 ms");
        }
        self.answered.print("connect answered");
        self.first_command.print("connect to first command finished");
        let ratio = self.first_command.ratio(&self.floor.finished());
        println!("{:<34} {ratio:>9.2} x of the floor at p50", "connect to first command finished");
        if self.running.is_empty() {
            println!("{:<34} not measured: the supervisor does not log it", "request to processors running");
        } else {
            self.running.print("request to processors running");
            let p50 = self.running.p50_ms();
            bar("request to processors running", p50, "ms", p50 <= 25.0, "<= 25 ms");
            self.running.print_raw("request to processors running");
        }
        self.floor.print_raw();
        self.answered.print_raw("connect answered");
        self.first_command.print_raw("connect to first command finished");
    }
}
