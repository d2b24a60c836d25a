//! The floor of a resume, from outside: a process that restores builds, in a network of its own.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use network::{Host, InstanceTag};
use sys::child::{ChildSetup, prepare};

use super::report::Samples;
use super::restore::{Request, Restored};
use crate::state::StateDir;

/// Keeps the network apart from that of the directory's server.
const OTHER_TAG: u16 = 0x8000;

/// A process that restores builds.
pub(super) struct Bare {
    host: Host,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Bare {
    pub(super) async fn start(state: &StateDir) -> Result<Self, String> {
        let tag = InstanceTag::new(state.tag().value() ^ OTHER_TAG);
        let host = Host::prepare(tag, None).await.map_err(|error| error.to_string())?;
        match Self::start_on(&host, state).await {
            Ok((child, input, output)) => Ok(Self { host, child, input, output: BufReader::new(output) }),
            Err(error) => {
                // The error that matters is the first one.
                let _ = host.remove_all().await;
                Err(error)
            }
        }
    }

    async fn start_on(host: &Host, state: &StateDir) -> Result<(Child, ChildStdin, ChildStdout), String> {
        // What a bench left that was ended from outside.
        host.reclaim(&HashSet::new()).await.map_err(|error| error.to_string())?;
        let slot = host.create_slot(0).await.map_err(|error| error.to_string())?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args(["bench", "restore"])
            .arg(state.store())
            .arg(slot.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        prepare(&mut command, ChildSetup { die_with_parent: true, ..ChildSetup::default() });
        let mut child = command.spawn().map_err(|error| format!("starting a process: {error}"))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok((child, input, output)),
            _ => Err("no pipes".into()),
        }
    }

    /// Restores a build, runs a command in it and ends it.
    pub(super) fn restore(&mut self, request: &Request) -> Result<Restored, String> {
        let request = serde_json::to_string(request).map_err(|error| error.to_string())?;
        let mut answer = String::new();
        writeln!(self.input, "{request}")
            .and_then(|()| self.output.read_line(&mut answer))
            .map_err(|error| format!("the bare restore: {error}"))?;
        serde_json::from_str(&answer).map_err(|_| "the bare restore has failed, see above".into())
    }

    /// Starts the process again, after it has failed.
    pub(super) async fn restart(&mut self, state: &StateDir) -> Result<(), String> {
        self.child.wait().map_err(|error| error.to_string())?;
        let (child, input, output) = Self::start_on(&self.host, state).await?;
        (self.child, self.input, self.output) = (child, input, BufReader::new(output));
        Ok(())
    }

    /// Ends the process and removes its network.
    pub(super) async fn finish(mut self) -> Result<(), String> {
        drop(self.input);
        self.child.wait().map_err(|error| error.to_string())?;
        self.host.remove_all().await.map_err(|error| error.to_string())
    }
}

/// The times of bare restores.
#[derive(Default)]
pub(super) struct BareSamples {
    all: Vec<Restored>,
}

impl BareSamples {
    pub(super) fn push(&mut self, restored: Restored) {
        self.all.push(restored);
    }

    fn of(&self, part: impl Fn(&Restored) -> std::time::Duration) -> Samples {
        let mut samples = Samples::default();
        for restored in &self.all {
            samples.push(part(restored));
        }
        samples
    }

    pub(super) fn finished(&self) -> Samples {
        self.of(|restored| restored.finished)
    }

    /// One line for each step.
    pub(super) fn print(&self) {
        self.of(|restored| restored.launched).print("floor: VMM launched");
        self.of(|restored| restored.served - restored.launched).print("floor: + memory taken over");
        self.of(|restored| restored.loaded - restored.served).print("floor: + device state loaded");
        self.of(|restored| restored.running - restored.loaded).print("floor: + processors running");
        self.of(|restored| restored.initialised - restored.running).print("floor: + envd initialised");
        self.of(|restored| restored.finished - restored.initialised).print("floor: + first command");
        self.of(|restored| restored.running).print("floor: start to processors running");
        self.finished().print("floor: start to command finished");
    }

    pub(super) fn print_raw(&self) {
        self.finished().print_raw("floor: start to command finished");
    }
}
