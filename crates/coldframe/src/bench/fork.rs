//! `coldframe bench fork`: from a fork request until each of the new sandboxes has finished a first command, and what
//! memory each of them holds when it is left alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use control::Client;
use futures_util::future::join_all;

use super::report::{Samples, bar};
use super::server::{Sandbox, Server, settle};

/// When the first moments of a machine are over.
const IDLE: Duration = Duration::from_secs(5);
/// What `stat` counts file space in, in bytes.
const BLOCK: u64 = 512;

pub(crate) async fn run(dir: &Path, count: usize, forks: usize) -> Result<(), String> {
    let server = Server::find(dir)?;
    let mut measured = Measured::default();
    server.rounds(count, async |sandbox| measured.round(&server, sandbox, forks).await).await?;
    measured.print(forks);
    Ok(())
}

#[derive(Default)]
struct Measured {
    answered: Samples,
    ready: Samples,
    /// What the guest memory of each fork takes, in bytes.
    memory: Vec<u64>,
}

impl Measured {
    async fn round(&mut self, server: &Server, sandbox: &Sandbox, forks: usize) -> Result<(), String> {
        settle().await;
        let begun = Instant::now();
        let made = server.fork(sandbox, forks).await?;
        self.answered.push(begun.elapsed());
        let commands = made.iter().map(|fork| server.command(fork, "/bin/true", &[]));
        let ran: Result<Vec<()>, String> = join_all(commands).await.into_iter().collect();
        self.ready.push(begun.elapsed());
        tokio::time::sleep(IDLE).await;
        for fork in &made {
            self.memory.push(guest_memory(&server.dir(fork)).await?);
        }
        for fork in &made {
            server.kill(fork).await?;
        }
        ran.map(drop)
    }

    fn print(&mut self, forks: usize) {
        println!("{:<34} {forks:>9}", "forks at once");
        self.answered.print("fork answered");
        self.ready.print("first command of every fork");
        // Each of them answers its guest daemon's clients from then on.
        let p50 = self.answered.percentile(50).as_secs_f64();
        bar("fork answered", p50, "s", p50 <= 5.0, "<= 5 s");
        self.memory.sort_unstable();
        let most = self.memory.last().copied().unwrap_or_default();
        #[allow(clippy::cast_precision_loss, reason = "a figure to look at")]
        let mib = most as f64 / f64::from(1 << 20);
        bar("guest memory of a fork, most", mib, "MiB", mib <= 16.0, "<= 16 MiB");
        self.answered.print_raw("fork answered");
        self.ready.print_raw("first command of every fork");
        let raw: Vec<String> = self.memory.iter().map(ToString::to_string).collect();
        println!("raw guest memory of a fork (bytes): {}", raw.join(" "));
    }
}

/// What the kernel has allocated for the guest memory of a sandbox, in bytes.
async fn guest_memory(dir: &Path) -> Result<u64, String> {
    let status = Client::new(dir).status().await.map_err(|error| error.to_string())?;
    let vmm = status.vmm_pid.ok_or("the sandbox has no VMM")?;
    let mut most = 0;
    let files =
        fs::read_dir(format!("/proc/{vmm}/fd")).map_err(|error| format!("files of {vmm}: {error}"))?;
    for file in files.flatten().map(|file| file.path()) {
        // A descriptor may be closed meanwhile.
        let memfd = fs::read_link(&file).is_ok_and(|name| name.to_string_lossy().starts_with("/memfd:"));
        if memfd && let Ok(meta) = fs::metadata(&file) {
            most = most.max(meta.blocks() * BLOCK);
        }
    }
    Ok(most)
}
