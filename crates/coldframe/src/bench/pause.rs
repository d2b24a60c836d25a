//! `coldframe bench pause`: from the request until it is acknowledged, when nothing of the sandbox can be lost any more.
//!
//! The floor is what the disk takes for the same bytes: one file on the same file system, written in one go and synced,
//! right after each pause.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::report::{Samples, bar, gigabytes};
use super::server::{Sandbox, Server, settle};

/// How long to wait for others to have written what they write.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the floor writes at once.
const CHUNK: usize = 1 << 20;

pub(crate) async fn run(dir: &Path, count: usize, dirty: u64) -> Result<(), String> {
    let server = Server::find(dir)?;
    let mut measured = Measured::default();
    server.rounds(count, async |sandbox| measured.round(&server, sandbox, dirty).await).await?;
    measured.print();
    Ok(())
}

#[derive(Default)]
struct Measured {
    floor: Samples,
    pause: Samples,
    /// What each pause stored, in bytes.
    stored: Vec<u64>,
}

impl Measured {
    /// Fills memory, pauses, writes the same once more, and has the sandbox run again.
    async fn round(&mut self, server: &Server, sandbox: &Sandbox, dirty: u64) -> Result<(), String> {
        let fill = format!("head -c {} /dev/urandom > /dev/shm/bench", dirty << 20);
        server.command(sandbox, "/bin/sh", &["-c", &fill]).await?;
        quiet(server).await?;
        let pause = server.pause(sandbox).await?;
        let build = server.state.store().join(server.build_of(sandbox)?.as_str());
        let failed = |error: io::Error| format!("the floor: {error}");
        // At once: compaction may soon make another build of it, and delete this one.
        let files = open(&build).map_err(failed)?;
        quiet(server).await?;
        let content = content(files).map_err(failed)?;
        self.floor.push(write_once(server.state.root(), &content).map_err(failed)?);
        self.pause.push(pause);
        self.stored.push(content.len() as u64);
        server.connect(sandbox).await.map(drop)
    }

    fn print(&self) {
        let mut stored = self.stored.clone();
        stored.sort_unstable();
        let median = stored.get(stored.len() / 2).copied().unwrap_or_default();
        let mib = median >> 20;
        println!("{:<34} {mib:>9} MiB at p50", "stored by a pause");
        self.floor.print("floor: write and fsync");
        self.pause.print("pause acknowledged");
        let rate = gigabytes(median, self.floor.percentile(50));
        println!("{:<34} {rate:>9.2} GB/s at p50", "floor: write and fsync");
        let ratio = self.pause.ratio(&self.floor);
        bar("pause acknowledged", ratio, "x floor", ratio <= 1.5, "<= 1.5 x");
        self.floor.print_raw("floor: write and fsync");
        self.pause.print_raw("pause acknowledged");
        let raw: Vec<String> = self.stored.iter().map(ToString::to_string).collect();
        println!("raw stored by a pause (bytes): {}", raw.join(" "));
    }
}

/// Waits until nothing is left to be written by what was done before, nor by compaction.
async fn quiet(server: &Server) -> Result<(), String> {
    let store = server.state.store();
    let busy = || -> io::Result<bool> {
        let mut builds = fs::read_dir(&store)?.flatten();
        Ok(builds.any(|build| build.file_name().as_encoded_bytes().starts_with(b".")))
    };
    let end = Instant::now() + PATIENCE;
    while busy().map_err(|error| format!("looking at {}: {error}", store.display()))? {
        if Instant::now() > end {
            return Err(format!("builds in {} were not done after {PATIENCE:?}", store.display()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sync = || rustix::fs::syncfs(File::open(server.state.root())?).map_err(io::Error::from);
    sync().map_err(|error| format!("syncing {}: {error}", server.state.root().display()))?;
    settle().await;
    Ok(())
}

/// All files of a build.
fn open(build: &Path) -> io::Result<Vec<File>> {
    fs::read_dir(build)?.map(|entry| File::open(entry?.path())).collect()
}

/// What is in them, one after the other.
fn content(files: Vec<File>) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    for mut file in files {
        file.read_to_end(&mut content)?;
    }
    Ok(content)
}

/// Writes a file in `dir`, which is gone afterwards.
fn write_once(dir: &Path, content: &[u8]) -> io::Result<Duration> {
    let begun = Instant::now();
    let mut file = tempfile::Builder::new().prefix(".bench-").tempfile_in(dir)?;
    for chunk in content.chunks(CHUNK) {
        file.write_all(chunk)?;
    }
    file.as_file().sync_all()?;
    Ok(begun.elapsed())
}
