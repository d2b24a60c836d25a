//! Part of `coldframe bench envd`: many processes at once.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use super::report::{Samples, bar};
use crate::exec::{Event, Events};
use crate::http::{Connection, as_user};

const PROCESSES: usize = 1000;
/// How long the daemon may take to notice that all of them ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts many, lists them, kills them, and looks at what is left in the daemon.
pub(super) async fn run(address: SocketAddr, daemon: u32) -> Result<(), String> {
    let mut control = Connection::open(address, vec![as_user("root")]).await?;
    listed(&mut control).await?;
    let before = descriptors(daemon)?;

    let begun = Instant::now();
    let mut started = BTreeSet::new();
    for _ in 0..PROCESSES {
        started.insert(start(address).await?);
    }
    let all = begun.elapsed();
    let mut lists = Samples::default();
    let begun = Instant::now();
    let found = listed(&mut control).await?;
    lists.push(begun.elapsed());
    let during = descriptors(daemon)?;

    let begun = Instant::now();
    for pid in &started {
        let signal = json!({ "process": { "pid": pid }, "signal": "SIGNAL_SIGKILL" });
        control.json("POST", "/process.Process/SendSignal", &signal).await?;
    }
    let ended = until(async || Ok(listed(&mut control).await?.is_empty())).await?;
    let killed = begun.elapsed();
    let closed = until(async || Ok(descriptors(daemon)? <= before)).await?;

    println!("{PROCESSES} processes: started in {all:.2?}, killed and noticed in {killed:.2?}");
    println!("descriptors of the daemon: {before} before, {during} during, {} after", descriptors(daemon)?);
    lists.print("list of all of them");
    bar("started and listed", count(found.intersection(&started).count()), "", found == started, "all");
    bar("not ended", count(listed(&mut control).await?.len()), "", ended, "none");
    bar("zombies", count(zombies(daemon)?), "", zombies(daemon)? == 0, "none");
    bar("descriptors left", count(descriptors(daemon)?.saturating_sub(before)), "", closed, "none");
    Ok(())
}

/// Starts one that stays, and leaves it alone.
async fn start(address: SocketAddr) -> Result<u64, String> {
    let mut connection = Connection::open(address, vec![as_user("root")]).await?;
    let mut events = Events::of(connection.start("/bin/sleep", &["600"]).await?);
    match events.next().await? {
        Some(Event::Started(pid)) => Ok(pid),
        _ => Err("a process was not said to have started".into()),
    }
}

async fn listed(control: &mut Connection) -> Result<BTreeSet<u64>, String> {
    let list = control.json("POST", "/process.Process/List", &json!({})).await?;
    let processes = list["processes"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(processes.iter().filter_map(|process| process["pid"].as_u64()).collect())
}

/// Whether it became true in time.
async fn until(mut condition: impl AsyncFnMut() -> Result<bool, String>) -> Result<bool, String> {
    let begun = Instant::now();
    while !condition().await? {
        if begun.elapsed() > PATIENCE {
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(true)
}

fn descriptors(pid: u32) -> Result<usize, String> {
    fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).map_err(|error| error.to_string())
}

/// Children that ended and that nobody waited for.
fn zombies(pid: u32) -> Result<usize, String> {
    let parent = format!("PPid:\t{pid}\n");
    let processes = fs::read_dir("/proc").map_err(|error| error.to_string())?;
    // Those that are gone meanwhile are none.
    let statuses =
        processes.flatten().filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
    Ok(statuses.filter(|status| status.contains(&parent) && status.contains("State:\tZ")).count())
}

#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn count(number: usize) -> f64 {
    number as f64
}
