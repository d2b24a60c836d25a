//! Booting from a build's disk in place of going on with its memory.
//!
//! | cause | how it is found out |
//! |---|---|
//! | somebody asks for it | the request says so |
//! | no memory was kept | the build's manifest says so |
//! | the memory is damaged | the supervisor says so, when it opens the build or later, when a page is needed. Remembered until this server ends: another one finds out again |
//!
//! Without the wish of whoever asks, there is no reboot for the first cause; for the others there is, unless nobody would
//! hear of it ([`WayBack::WithMemory`]). A build whose disk is damaged cannot be used at all.

use std::path::Path;

use artifacts::LocalStore;
use build::BootFiles;
use control::{BuildFiles, Reboot, Start};
use model::{BuildId, FleetError, SandboxRecord, SandboxSpec, WayBack};

use crate::node::Node;

/// Why a sandbox does not go on with its memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody wants it so.
    Asked,
    /// There is none.
    NoMemory,
    /// It is damaged; the text names the object and what was expected of it.
    Damaged(String),
}

impl Cause {
    /// As a metric's label.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::NoMemory => "no_memory",
            Self::Damaged(_) => "damaged",
        }
    }

    /// For people.
    fn text(&self) -> String {
        match self {
            Self::Asked => "a reboot was asked for".to_owned(),
            Self::NoMemory => "its memory was not kept".to_owned(),
            Self::Damaged(why) => format!("its memory is damaged: {why}"),
        }
    }
}

impl Node {
    /// Starts a sandbox from a build that holds what it, or another one, was, and waits until it runs.
    pub(crate) async fn start_from(
        &self,
        spec: SandboxSpec,
        build: &BuildId,
        way: WayBack,
    ) -> Result<SandboxRecord, FleetError> {
        let references = self.shared.paused.references();
        let cause = match (way, references.unusable(build)) {
            (WayBack::Reboot, _) => Cause::Asked,
            (_, Some(cause)) => cause,
            (_, None) => {
                let started = self.start_specified(spec.clone(), Start::Resume(build.clone())).await;
                match (started, references.unusable(build)) {
                    // That is how it was found out.
                    (Err(_), Some(cause)) => cause,
                    (started, _) => return started,
                }
            }
        };
        let (id, why) = (&spec.id, cause.text());
        if way == WayBack::WithMemory {
            let text = format!(
                "sandbox {id} can only be booted from its disk, since {why}; connect to it to do that"
            );
            return Err(FleetError::NeedsReboot(text));
        }
        let BootFiles { kernel, initrd } = self.boot_files(&spec, build).await?;
        match cause {
            Cause::Damaged(_) => tracing::warn!(sandbox = %id, %build, why, "booting from the disk"),
            Cause::Asked | Cause::NoMemory => {
                tracing::info!(sandbox = %id, %build, why, "booting from the disk");
            }
        }
        self.shared.metrics.rebooted(&cause);
        let (kernel, initrd) = (kernel.into(), initrd.into());
        let reboot = Reboot { build: build.clone(), kernel, initrd, why };
        self.start_specified(spec, Start::Reboot(reboot)).await
    }

    /// What boots the disk of a build: the files that it was booted with before, and when they are gone, those of its
    /// template or of another one, which boot every disk.
    async fn boot_files(&self, spec: &SandboxSpec, build: &BuildId) -> Result<BootFiles, FleetError> {
        let (store, name) = (self.shared.config.store.clone(), build.clone());
        let read = tokio::task::spawn_blocking(move || {
            LocalStore::open(&store).and_then(|store| artifacts::load_manifest(&store, &name))
        });
        let manifest = read.await.map_err(|error| FleetError::Internal(error.to_string()))?;
        let manifest = manifest.map_err(|error| {
            FleetError::StartFailed(format!("sandbox {} cannot be booted from its disk: {error}", spec.id))
        })?;
        if let Some(files) = manifest.boot.filter(are_there) {
            return Ok(files);
        }
        let mut error = String::new();
        for template in std::iter::once(spec.build.clone()).chain(self.shared.warm.templates()) {
            match self.shared.builds.files(&template) {
                Ok(BuildFiles { kernel, initrd, .. }) => {
                    let text = |path: &Path| path.to_string_lossy().into_owned();
                    return Ok(BootFiles { kernel: text(&kernel), initrd: text(&initrd) });
                }
                Err(why) => error = why,
            }
        }
        let id = &spec.id;
        let text = format!("sandbox {id} cannot be booted from its disk: there is no kernel for it: {error}");
        Err(FleetError::StartFailed(text))
    }
}

fn are_there(files: &BootFiles) -> bool {
    [&files.kernel, &files.initrd].into_iter().all(|path| Path::new(path).is_file())
}
