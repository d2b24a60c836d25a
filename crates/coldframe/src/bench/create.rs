//! `coldframe bench create`: from the request until the first command has finished.
//!
//! A create is a resume of the template's snapshot. The floor is a bare restore of the same image with the same first
//! command: no server, no supervisor, no confinement. What a create would be without snapshots is a second floor: a bare
//! QEMU that boots the same kernel and disk. Real thing and floor take turns, so that whatever else the host does falls
//! on both.

use std::path::Path;
use std::time::{Duration, Instant};

use control::Start;

use super::bare::{Bare, BareSamples};
use super::boot;
use super::report::{Samples, bar};
use super::restore::Request;
use super::server::{Server, settle};

/// Boots take seconds, and are only to be compared with.
const BOOTS: usize = 3;

pub(crate) async fn run(dir: &Path, count: usize) -> Result<(), String> {
    let server = Server::find(dir)?;
    let base = template::existing_base(&template::Dirs::new(server.state.root()))
        .ok_or("there is no base template")?;
    let accel = crate::builds::accelerator(crate::cli::AccelChoice::Auto, &server.state, &base).await?;
    println!("accel    {:?}: {}", accel.accel, accel.reason);
    let Some(request) = image(&server).await? else {
        return Err("sandboxes of this server boot: there is no snapshot of the base template".into());
    };
    println!("image    build {} in {}", request.build, server.state.store().display());

    let mut boots = Samples::default();
    for _ in 0..count.min(BOOTS) {
        boots.push(boot::bare(&base, accel.accel)?);
    }
    let mut measured = Measured::default();
    let mut bare = Bare::start(&server.state).await?;
    let mut outcome = Ok(());
    for _ in 0..count {
        outcome = measured.round(&server, &mut bare, &request).await;
        if outcome.is_err() {
            break;
        }
    }
    bare.finish().await?;
    outcome?;
    measured.print(&boots);
    Ok(())
}

/// What sandboxes of the base template go on from. Creates one, which also warms up whatever is cold.
async fn image(server: &Server) -> Result<Option<Request>, String> {
    let sandbox = server.create().await?;
    let launch = server.launch(&sandbox);
    server.kill(&sandbox).await?;
    Ok(match launch?.start {
        Start::Resume(build) => Some(Request { build, token: None }),
        Start::Boot(_) | Start::Reboot(_) => None,
    })
}

#[derive(Default)]
struct Measured {
    floor: BareSamples,
    created: Samples,
    first_command: Samples,
    kill: Samples,
}

impl Measured {
    async fn round(&mut self, server: &Server, bare: &mut Bare, request: &Request) -> Result<(), String> {
        settle().await;
        self.floor.push(bare.restore(request)?);
        settle().await;
        let begun = Instant::now();
        let sandbox = server.create().await?;
        self.created.push(begun.elapsed());
        let ran = server.command(&sandbox, "/bin/true", &[]).await;
        self.first_command.push(begun.elapsed());
        self.kill.push(server.kill(&sandbox).await?);
        ran
    }

    fn print(&self, boots: &Samples) {
        self.floor.print();
        self.created.print("create");
        self.first_command.print("create to first command finished");
        self.kill.print("kill");
        let floor = self.floor.finished();
        let ratio = self.first_command.ratio(&floor);
        bar("create to first command finished", ratio, "x floor", ratio <= 3.0, "<= 3 x");
        let kill = self.kill.percentile(50);
        bar("kill", self.kill.p50_ms(), "ms", kill < Duration::from_secs(1), "< 1000 ms");
        boots.print("floor: bare QEMU to envd's start");
        println!(
            "{:<34} {:>9.2} x of a bare boot at p50",
            "create to first command finished",
            self.first_command.ratio(boots)
        );
        self.floor.print_raw();
        self.first_command.print_raw("create to first command finished");
        boots.print_raw("floor: bare QEMU to envd's start");
    }
}
