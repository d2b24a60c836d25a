//! QEMU's `microvm`: no firmware menus, no PCI, a handful of virtio devices.

mod arguments;
mod kernel_parameters;

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Command;

use async_trait::async_trait;
use command_fds::CommandFdExt;
use sys::child::{ChildSetup, prepare};
use sys::tsc::TscSample;
use tokio::net::UnixStream;
use tokio::sync::watch;

use crate::accel::Accel;
use crate::driver::{Driver, Vm, VmmError};
use crate::exit::{Exit, ExitCause};
use crate::machine::{Machine, RootDisk};
use crate::process::Process;
use crate::qmp::{Observed, Qmp};

pub use arguments::bare_command_line;

/// The program, found on the path.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The driver for QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// When the driver was made: the start of the measurement of the time stamp counter.
    made: TscSample,
}

impl Qemu {
    /// A driver. Make it some time before the first launch: under TCG it measures the processor's clock meanwhile.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "no two are equal: it remembers when it was made")]
    pub fn new() -> Self {
        Self { made: TscSample::now() }
    }

    /// Like [`Driver::launch`], and lets watch what QEMU says of the machine.
    pub(crate) async fn start(
        &self,
        machine: Machine,
    ) -> Result<(QemuVm, watch::Receiver<Observed>), VmmError> {
        let parameters = match machine.accel {
            Accel::Kvm => kernel_parameters::kvm(&machine.cmdline),
            Accel::Tcg => {
                tokio::time::sleep(self.made.wait()).await;
                let khz = self.made.khz_since().ok_or(VmmError::Unsupported(
                    "this processor has no usable time stamp counter, without which guests cannot tell the time",
                ))?;
                kernel_parameters::tcg(khz, &machine.cmdline)
            }
        };
        let (control, theirs) =
            StdUnixStream::pair().map_err(|source| VmmError::Prepare { what: "control socket", source })?;
        let mut inherited = Inherited::default();
        let parts = arguments::Parts {
            accel: machine.accel,
            vcpus: machine.vcpus,
            memory_size: machine.memory.size(),
            memory: inherited.add(machine.memory.into_fd()),
            kernel: inherited.add(open(&machine.kernel)?),
            initrd: inherited.add(open(&machine.initrd)?),
            append: &parameters,
            control: inherited.add(theirs.into()),
            console: inherited.add(machine.console),
            disk: match machine.root_disk {
                RootDisk::None => None,
                RootDisk::Nbd(socket) => Some(inherited.add(socket)),
            },
            tap: machine.tap.map(|tap| (inherited.add(tap), machine.mac)),
        };

        let mut command = Command::new(PROGRAM);
        command.args(arguments::confined(&parts)).current_dir("/").env_clear();
        // The path is how it was found, and nothing else of our environment concerns it.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        prepare(
            &mut command,
            ChildSetup {
                die_with_parent: true,
                new_session: true,
                no_new_privs: true,
                no_core_dump: true,
                user: machine.confinement.user,
                cgroup_procs: machine.confinement.cgroup_procs,
            },
        );
        command.preserved_fds(inherited.fds);

        let control = control
            .set_nonblocking(true)
            .and_then(|()| UnixStream::from_std(control))
            .map_err(|source| VmmError::Prepare { what: "control socket", source })?;
        let (opening, observed) = Qmp::open(control);
        let process = Process::spawn(command, explain(observed.clone()))
            .map_err(|source| VmmError::Spawn { program: PROGRAM, source })?;
        // The guest is running already; this only makes sure that QEMU obeys us.
        match opening.ready().await {
            Ok(control) => Ok((QemuVm { process, _control: control }, observed)),
            Err(error) => {
                // A QEMU that ended says why on its standard error, which beats "connection closed".
                let gone = tokio::time::timeout(END_OF_FAILED_START, process.wait()).await;
                Err(gone.map_or(VmmError::Control(error), VmmError::Exited))
            }
        }
    }
}

/// How long a QEMU that closed its control connection may take to be gone.
const END_OF_FAILED_START: std::time::Duration = std::time::Duration::from_millis(500);

#[async_trait]
impl Driver for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    async fn launch(&self, machine: Machine) -> Result<Box<dyn Vm>, VmmError> {
        let (vm, _) = self.start(machine).await?;
        Ok(Box::new(vm))
    }
}

/// A QEMU process.
#[derive(Debug)]
pub(crate) struct QemuVm {
    process: Process,
    /// Open as long as the machine is ours.
    _control: Qmp,
}

#[async_trait]
impl Vm for QemuVm {
    fn pid(&self) -> i32 {
        self.process.pid()
    }

    fn kill(&self) {
        self.process.kill();
    }

    async fn wait(&self) -> Exit {
        self.process.wait().await
    }
}

/// The descriptors that QEMU gets. They keep their numbers, so that nothing has to be moved over anything.
#[derive(Debug, Default)]
struct Inherited {
    fds: Vec<OwnedFd>,
}

impl Inherited {
    fn add(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.fds.push(fd);
        number
    }
}

fn open(path: &Path) -> Result<OwnedFd, VmmError> {
    let file = File::open(path).map_err(|source| VmmError::File { path: path.to_owned(), source })?;
    Ok(file.into())
}

/// What the last words on the control connection say about the end of the process.
async fn explain(mut observed: watch::Receiver<Observed>) -> Option<ExitCause> {
    let last = observed.wait_for(|observed| observed.closed).await.ok()?;
    match last.shutdown.as_deref()? {
        "guest-shutdown" => Some(ExitCause::GuestShutdown),
        "guest-reset" | "guest-panic" => Some(ExitCause::GuestReset),
        _ => None,
    }
}
