//! `coldframe bench checkpoint`: for how long a sandbox stands still while a snapshot of it is made, and when that is
//! answered.
//!
//! How long it stood still, its supervisor says in its log. The floor is copying as many bytes from memory to memory.

use std::path::Path;
use std::time::{Duration, Instant};

use super::phases::{self, SNAPSHOT};
use super::report::{Samples, bar};
use super::server::{Sandbox, Server, settle};

/// The phases in which the processors do not run.
const STILL: [&str; 4] = ["stop", "state", "keep", "run"];

pub(crate) async fn run(dir: &Path, count: usize, dirty: u64) -> Result<(), String> {
    let server = Server::find(dir)?;
    let mut measured = Measured::default();
    server.rounds(count, async |sandbox| measured.round(&server, sandbox, dirty).await).await?;
    measured.print(dirty);
    Ok(())
}

#[derive(Default)]
struct Measured {
    floor: Samples,
    still: Samples,
    answered: Samples,
}

impl Measured {
    /// Fills memory, makes a snapshot, copies as many bytes, and deletes the snapshot.
    async fn round(&mut self, server: &Server, sandbox: &Sandbox, dirty: u64) -> Result<(), String> {
        let fill = format!("head -c {} /dev/urandom > /dev/shm/bench", dirty << 20);
        server.command(sandbox, "/bin/sh", &["-c", &fill]).await?;
        settle().await;
        let (snapshot, answered) = server.snapshot(sandbox).await?;
        self.answered.push(answered);
        let phases = phases::read(&server.dir(sandbox), SNAPSHOT)?
            .ok_or("the supervisor's log says nothing of the snapshot")?;
        let still = phases.phases.iter().filter(|(name, _)| STILL.contains(&name.as_str()));
        self.still.push(still.map(|(_, time)| *time).sum());
        self.floor.push(copy(dirty << 20));
        server.delete_template(&snapshot).await
    }

    fn print(&self, dirty: u64) {
        println!("{:<34} {dirty:>9} MiB", "filled before each snapshot");
        self.floor.print("floor: copy from memory to memory");
        self.still.print("processors stood still");
        self.answered.print("snapshot answered");
        let p50 = self.still.p50_ms();
        bar("processors stood still", p50, "ms", p50 <= 60.0, "<= 60 ms");
        self.floor.print_raw("floor: copy from memory to memory");
        self.still.print_raw("processors stood still");
        self.answered.print_raw("snapshot answered");
    }
}

/// Copies so many bytes between two pieces of memory that are there.
fn copy(bytes: u64) -> Duration {
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let (from, mut to) = (vec![1_u8; length], vec![2_u8; length]);
    let begun = Instant::now();
    to.copy_from_slice(&from);
    let took = begun.elapsed();
    std::hint::black_box(to);
    took
}
