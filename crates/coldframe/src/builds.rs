//! Templates and accelerators as the server needs them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use catalog::{Catalog, Template};
use control::{Accel, BuildFiles};
use model::{BuildId, TemplateId};
use vmm::{AccelChoice, AccelVerdict};

use crate::cli;
use crate::state::StateDir;

/// Id and name of the template that is built in.
pub(crate) const BASE: &str = "base";

/// Finds builds in the state directory.
#[derive(Debug)]
pub(crate) struct LocalBuilds {
    root: PathBuf,
}

impl LocalBuilds {
    pub(crate) fn new(state: &StateDir) -> Self {
        Self { root: state.root().to_owned() }
    }
}

impl node::Builds for LocalBuilds {
    fn files(&self, build: &BuildId) -> Result<BuildFiles, String> {
        let build =
            template::load(&template::Dirs::new(&self.root), build).map_err(|error| error.to_string())?;
        Ok(BuildFiles { kernel: build.kernel, initrd: build.initrd, rootfs: build.rootfs })
    }
}

/// Which accelerator this host's sandboxes use, found by booting a guest unless it was chosen.
pub(crate) async fn accelerator(
    choice: cli::AccelChoice,
    state: &StateDir,
    base: &template::Build,
) -> Result<AccelVerdict, String> {
    let choice = match choice {
        cli::AccelChoice::Auto => AccelChoice::Auto,
        cli::AccelChoice::Kvm => AccelChoice::Kvm,
        cli::AccelChoice::Tcg => AccelChoice::Tcg,
    };
    let verdict = vmm::choose(choice, &base.kernel, &base.initrd, &state.accel()).await;
    let verdict = verdict.map_err(|error| error.to_string())?;
    if verdict.accel == vmm::Accel::Kvm {
        check_kvm_group()?;
    }
    Ok(verdict)
}

/// A VMM has a user of its own and the group of `/dev/kvm`; the probe, which is ours, may do more than it.
fn check_kvm_group() -> Result<(), String> {
    let mode =
        std::fs::metadata("/dev/kvm").map_err(|error| format!("/dev/kvm: {error}"))?.permissions().mode();
    if mode & 0o060 == 0o060 {
        return Ok(());
    }
    Err("the group of /dev/kvm may not use it, and VMMs do not run as root; give it to one as udev does: \
         `chgrp kvm /dev/kvm && chmod 660 /dev/kvm`"
        .into())
}

/// Which accelerator the machine of a build runs on.
pub(crate) fn accel_of(manifest: &build::Manifest) -> Result<vmm::Accel, String> {
    match manifest.vmm.accel.as_str() {
        "kvm" => Ok(vmm::Accel::Kvm),
        "tcg" => Ok(vmm::Accel::Tcg),
        other => Err(format!("build {} is of a machine that runs on {other}", manifest.id)),
    }
}

pub(crate) fn control_accel(accel: vmm::Accel) -> Accel {
    match accel {
        vmm::Accel::Kvm => Accel::Kvm,
        vmm::Accel::Tcg => Accel::Tcg,
    }
}

/// Makes the base template known under its name.
pub(crate) async fn register_base(catalog: &Catalog, base: &template::Build) -> Result<(), String> {
    let register = async {
        let now = jiff::Timestamp::now();
        let id: TemplateId = BASE.parse().map_err(|error| format!("{error}"))?;
        let template = Template {
            id,
            team: None,
            team_slug: None,
            aliases: vec![BASE.into()],
            public: true,
            build: base.id.clone(),
            shape: base.shape,
            envd_version: model::ENVD_VERSION.into(),
            created_at: now,
            updated_at: now,
            build_count: 0,
            spawn_count: 0,
            last_spawned_at: None,
        };
        catalog.put_template(&template).await.map_err(|error| error.to_string())
    };
    register.await.map_err(|error: String| format!("registering the base template: {error}"))
}
