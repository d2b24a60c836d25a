//! `coldframe build create`: a machine of another build, of a directory or of a container image, with what runs in it.
//!
//! ```text
//! build, or image ─> directory ─> disk ─> machine ─> setup command ─> start command ─> ready command, until it succeeds ─> pause ─> build
//! ```

use std::process::ExitCode;
use std::time::Duration;

use artifacts::{LocalStore, load_manifest};
use control::Prefetch;
use model::{BuildId, MiB, Shape, VcpuCount, WayBack};
use template::{Dirs, ensure_boot_files};
use vmm::AccelChoice;

use super::machine::Machine;
use super::names::{self, NewName};
use super::process::{self, Shown};
use super::workbench::{Directory, Settings, Source, Tree, Workbench, interruptible, on_a_workbench};
use crate::Outcome;
use crate::cli::BuildCreate;
use crate::progress::Terminal;
use crate::state::StateDir;

/// Between two questions whether it is ready.
const LOOK: Duration = Duration::from_secs(1);
/// The account that commands run as unless a client asks for another. Directories need not have it.
const USER: &str = "user";
const MAKE_USER: &str = "grep -q '^user:' /etc/passwd 2>/dev/null && exit
    mkdir -p /home/user && echo 'user:x:1000:1000::/home/user:/bin/sh' >> /etc/passwd &&
    echo 'user:x:1000:' >> /etc/group && chown 1000:1000 /home/user";
/// Who makes it.
const ROOT: &str = "root";

pub(super) fn run(options: &BuildCreate) -> Outcome {
    let state = StateDir::open(&options.state.dir)?;
    let source = match (&options.from, &options.from_dir, &options.from_image) {
        (Some(build), _, _) => {
            let store = LocalStore::open(&state.store()).map_err(|error| error.to_string())?;
            let build = names::find(&state, &store, build)?;
            Source::Build(Box::new(load_manifest(&store, &build).map_err(|error| error.to_string())?))
        }
        (None, Some(dir), _) => {
            let path = dir.canonicalize();
            let path = path.map_err(|error| format!("--from-dir {}: {error}", dir.display()))?;
            Source::Directory(Box::new(directory(&state, Tree::Directory(path), options)?))
        }
        (None, None, Some(image)) => {
            Source::Directory(Box::new(directory(&state, Tree::Image(image.clone()), options)?))
        }
        // The rules of the options ask for one.
        (None, None, None) => return Err("--from, --from-dir or --from-image is needed".into()),
    };
    let settings = Settings {
        prefetch: Prefetch::WorkingSet,
        way: WayBack::Best,
        workshop: options.place.number,
        dns: options.dns.servers.clone(),
        vmm: None,
        egress: !options.no_egress,
    };
    on_a_workbench(&state, source, settings, async |bench| interruptible(make(&state, bench, options)).await)
}

/// A directory with what boots it.
fn directory(state: &StateDir, tree: Tree, options: &BuildCreate) -> Result<Directory, String> {
    let shape =
        Shape { vcpus: VcpuCount(options.vcpus), memory: MiB(options.memory), disk: MiB(options.size) };
    let programs = crate::guest::Programs::unpack()?;
    let (dirs, named) = (Dirs::new(state.root()), options.kernel.as_deref());
    let files = ensure_boot_files(&dirs, &programs.binaries(), named, &Terminal::new());
    let (kernel, initrd) = files.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let verdict = runtime.block_on(vmm::choose(AccelChoice::Auto, &kernel, &initrd, &state.accel()));
    let accel = crate::builds::control_accel(verdict.map_err(|error| error.to_string())?.accel);
    Ok(Directory { id: BuildId::random(), tree, kernel, initrd, shape, accel })
}

async fn make(state: &StateDir, bench: &Workbench, options: &BuildCreate) -> Outcome {
    // Before there is anything to lose.
    let name = NewName::new(state, options.name.as_deref()).await?;
    let machine = bench.start().await?;
    let limit = Duration::from_secs(options.timeout);
    let prepared = tokio::time::timeout(limit, machine.unless_it_ends(prepare(&machine, options))).await;
    // Kept until the machine is paused: who starts it is connected to it as long.
    let _started = prepared.map_err(|_| format!("it was not ready within {limit:?}"))??;
    let made = machine.pause(true).await?;
    eprintln!("snapshot  {}", name.give(&made).await?);
    println!("{}", made.id);
    Ok(ExitCode::SUCCESS)
}

/// Runs the commands. What is returned is the one that goes on.
async fn prepare(machine: &Machine<'_>, options: &BuildCreate) -> Result<Option<process::Running>, String> {
    if options.from.is_none() && options.user == USER {
        match process::script(machine, ROOT, MAKE_USER, Shown::Aside).await? {
            0 => {}
            status => return Err(format!("making the account {USER:?} ended with status {status}")),
        }
    }
    if let Some(setup) = &options.setup_cmd {
        match process::script(machine, &options.user, setup, Shown::Aside).await? {
            0 => {}
            status => return Err(format!("the setup command ended with status {status}")),
        }
    }
    let mut started = match &options.start_cmd {
        Some(start) => Some(process::running(machine, &options.user, start).await?),
        None => None,
    };
    let Some(ready) = &options.ready_cmd else { return Ok(started) };
    loop {
        let asked = async {
            let status = process::script(machine, &options.user, ready, Shown::Not).await?;
            if status != 0 {
                tokio::time::sleep(LOOK).await;
            }
            Ok::<_, String>(status == 0)
        };
        let Some(running) = &mut started else {
            if asked.await? {
                return Ok(None);
            }
            continue;
        };
        tokio::select! {
            is_ready = asked => if is_ready? { return Ok(started) },
            status = running.ended() => match status? {
                // It has started what it is about in the background.
                0 => started = None,
                status => {
                    return Err(format!("the start command ended with status {status} before it was ready"));
                }
            },
        }
    }
}
