//! `coldframe bench create`: from the request until the first command has finished.
//!
//! The floor is a bare QEMU, started by hand with the same kernel, initial RAM file system and disk, until PID 1 starts
//! the guest daemon: nothing that answers a command can be faster. Both are measured alternately, so that whatever else
//! the host does falls on both.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use model::ENVD_PORT;
use serde_json::json;

use super::http::{Connection, as_user};
use super::report::{Samples, bar};
use crate::state::StateDir;

/// What PID 1 prints when it hands over to the guest daemon.
const FLOOR_LINE: &str = "starting envd";
/// A guest that has not come so far by then never will.
const FLOOR_PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn run(dir: &Path, count: usize) -> Result<(), String> {
    let state = StateDir::open(dir)?;
    let server = state.server().ok_or("no server runs: start one with `coldframe up`")?;
    let key = state.key().ok_or("the server has no default key")?;
    let address = server
        .url
        .trim_start_matches("http://")
        .parse()
        .map_err(|error| format!("{}: {error}", server.url))?;
    let base =
        template::existing_base(&template::Dirs::new(state.root())).ok_or("there is no base template")?;
    let accel = crate::builds::accelerator(crate::cli::AccelChoice::Auto, &state, &base).await?;
    println!("accel    {:?}: {}", accel.accel, accel.reason);

    let (mut ready, mut first_command, mut floor, mut kill) =
        (Samples::default(), Samples::default(), Samples::default(), Samples::default());
    for _ in 0..count {
        floor.push(bare_boot(&base, accel.accel)?);
        let begun = Instant::now();
        let mut api = Connection::open(address, vec![("x-api-key", key.expose().to_owned())]).await?;
        let sandbox = api
            .json("POST", "/sandboxes", &json!({"templateID": "base", "timeout": 300, "secure": true}))
            .await?;
        ready.push(begun.elapsed());
        let id = sandbox["sandboxID"].as_str().ok_or("the answer has no sandboxID")?.to_owned();
        let headers = vec![
            ("e2b-sandbox-id", id.clone()),
            ("e2b-sandbox-port", ENVD_PORT.to_string()),
            ("x-access-token", sandbox["envdAccessToken"].as_str().unwrap_or_default().to_owned()),
            as_user("user"),
        ];
        let ran = async { Connection::open(address, headers).await?.command("/bin/true", &[]).await }.await;
        first_command.push(begun.elapsed());
        let end = Instant::now();
        api.json("DELETE", &format!("/sandboxes/{id}"), &json!({})).await?;
        kill.push(end.elapsed());
        ran?;
    }
    floor.print("floor: bare QEMU to envd's start");
    ready.print("create");
    first_command.print("create to first command finished");
    kill.print("kill");
    let ratio =
        first_command.percentile(50).as_secs_f64() / floor.percentile(50).as_secs_f64().max(f64::EPSILON);
    println!("{:<34} {ratio:>9.2} x of the floor at p50", "create to first command finished");
    bar(
        "kill",
        kill.percentile(50).as_secs_f64() * 1e3,
        "ms",
        kill.percentile(50) < Duration::from_secs(1),
        "< 1000 ms",
    );
    floor.print_raw("floor");
    first_command.print_raw("create to first command finished");
    Ok(())
}

/// Boots the base template with a plain command line; the disk's changes go to a temporary file of QEMU's.
fn bare_boot(base: &template::Build, accel: vmm::Accel) -> Result<Duration, String> {
    let begun = Instant::now();
    let mut child = Command::new("qemu-system-x86_64")
        .args(vmm::bare_command_line(accel, base.shape.vcpus, base.shape.memory))
        .arg("-kernel")
        .arg(&base.kernel)
        .arg("-initrd")
        .arg(&base.initrd)
        .args(["-drive", &format!("id=root,file={},format=raw,if=none,snapshot=on", base.rootfs.display())])
        .args([
            "-device",
            "virtio-blk-device,drive=root",
            "-netdev",
            "user,id=net",
            "-device",
            "virtio-net-device,netdev=net",
        ])
        .args(["-serial", "stdio"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("starting qemu-system-x86_64: {error}"))?;
    let output = child.stdout.take().ok_or("no output of QEMU")?;
    let reached = BufReader::new(output)
        .lines()
        .map_while(Result::ok)
        .take_while(|_| begun.elapsed() < FLOOR_PATIENCE)
        .any(|line| line.contains(FLOOR_LINE));
    let elapsed = begun.elapsed();
    let _ = child.kill();
    child.wait().map_err(|error| error.to_string())?;
    reached.then_some(elapsed).ok_or_else(|| "the bare guest never started envd".into())
}
