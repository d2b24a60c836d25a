//! `coldframe build copy`: a build in another state directory, complete in itself.

use std::path::Path;
use std::process::ExitCode;

use artifacts::{Copying, LocalStore, Store, load_manifest};
use build::{BootFiles, Manifest};
use template::{Dirs, Progress as _, adopt_kernel};

use super::names::{self, NewName};
use super::size;
use crate::Outcome;
use crate::cli::BuildCopy;
use crate::progress::Terminal;
use crate::state::StateDir;

pub(super) fn run(options: &BuildCopy) -> Outcome {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let (from, to) = (StateDir::open(&options.state.dir)?, StateDir::open(&options.to)?);
    if from.root() == to.root() {
        return Err(format!("{} is where it is: --to names another state directory", to.root().display()));
    }
    let store = LocalStore::open(&from.store()).map_err(|error| text(&error))?;
    let build = names::find(&from, &store, &options.build)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| text(&error))?;
    // Before there is anything to lose.
    let name = runtime.block_on(NewName::new(&to, options.name.as_deref()))?;
    let target = LocalStore::open(&to.store()).map_err(|error| text(&error))?;
    let made = if target.contains(&build).map_err(|error| text(&error))? {
        // Under one name there is one content.
        load_manifest(&target, &build).map_err(|error| text(&error))?
    } else {
        let manifest = load_manifest(&store, &build).map_err(|error| text(&error))?;
        let boot = manifest.boot.as_ref().map(|boot| adopt(&to, boot)).transpose()?;
        copy(&store, &manifest, &target, boot)?
    };
    eprintln!("snapshot  {}", runtime.block_on(name.give(&made))?);
    println!("{build}");
    Ok(ExitCode::SUCCESS)
}

/// Brings the kernel along. Symbols of it are fetched where somebody needs them.
fn adopt(to: &StateDir, boot: &BootFiles) -> Result<BootFiles, String> {
    let (kernel, initrd) = (Path::new(&boot.kernel), Path::new(&boot.initrd));
    let (kernel, initrd) = adopt_kernel(&Dirs::new(to.root()), kernel, initrd)?;
    let text = |path: &Path| {
        path.to_str().map(str::to_owned).ok_or_else(|| format!("{} is no text", path.display()))
    };
    Ok(BootFiles { kernel: text(&kernel)?, initrd: text(&initrd)? })
}

fn copy(
    from: &LocalStore,
    manifest: &Manifest,
    to: &LocalStore,
    boot: Option<BootFiles>,
) -> Result<Manifest, String> {
    let progress = Terminal::new();
    progress.step("copying the build");
    let copying = Copying { from, build: &manifest.id, to, boot };
    let made = copying.run(&mut |copied, all| {
        progress.detail(&format!("{} of {}", size(copied), size(all)));
    });
    progress.finish();
    made.map_err(|error| error.to_string())
}
