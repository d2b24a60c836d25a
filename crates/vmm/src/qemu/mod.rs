//! QEMU's `microvm`: no firmware menus, no PCI, a handful of virtio devices.

mod arguments;
mod debug;
mod identity;
mod kernel_parameters;
mod transfer;
mod vm;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use command_fds::CommandFdExt;
use sys::child::{ChildSetup, prepare};
use sys::tsc::TscSample;
use tokio::net::UnixStream;
use tokio::sync::{OnceCell, watch};

use crate::accel::Accel;
use crate::driver::{Driver, Vm, VmmError};
use crate::exit::ExitCause;
use crate::identity::Identity;
use crate::machine::{Machine, Preload, RootDisk, Start};
use crate::process::Process;
use crate::qmp::{Observed, Qmp};

pub use arguments::bare_command_line;
pub(crate) use vm::QemuVm;

/// The program, found on the path.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";

/// The driver for QEMU.
#[derive(Debug, Clone)]
pub struct Qemu {
    /// When the driver was made: the start of the measurement of the time stamp counter.
    made: TscSample,
    /// What the program says of its version, once it was asked.
    version: Arc<OnceCell<String>>,
}

impl Qemu {
    /// A driver. Make it some time before the first launch: under TCG it measures the processor's clock meanwhile.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "no two are equal: it remembers when it was made")]
    pub fn new() -> Self {
        Self { made: TscSample::now(), version: Arc::default() }
    }

    /// Like [`Driver::launch`], and lets watch what QEMU says of the machine.
    pub(crate) async fn start(
        &self,
        machine: Machine,
    ) -> Result<(QemuVm, watch::Receiver<Observed>), VmmError> {
        let (control, theirs) =
            StdUnixStream::pair().map_err(|source| VmmError::Prepare { what: "control socket", source })?;
        let mut inherited = Inherited::default();
        let parameters = match &machine.start {
            Start::Boot { cmdline, .. } => self.kernel_parameters(machine.accel, cmdline).await?,
            Start::Incoming { .. } => String::new(),
        };
        let memory = machine.memory.as_fd();
        let mut preload = None;
        let boot = match machine.start {
            Start::Boot { kernel, initrd, .. } => Some(arguments::Boot {
                kernel: inherited.add(open(&kernel)?),
                initrd: inherited.add(open(&initrd)?),
                append: &parameters,
            }),
            Start::Incoming { preload: wanted } => {
                preload = wanted.map(|wanted| environment(wanted, memory, &mut inherited)).transpose()?;
                None
            }
        };
        let incoming = boot.is_none();
        let parts = arguments::Parts {
            accel: machine.accel,
            vcpus: machine.vcpus,
            memory_size: machine.memory.size(),
            memory: inherited.add(machine.memory.into_fd()),
            boot,
            control: inherited.add(theirs.into()),
            console: inherited.add(machine.console),
            disk: match machine.root_disk {
                RootDisk::None => None,
                RootDisk::Nbd(socket) => Some(inherited.add(socket)),
            },
            tap: machine.tap.map(|tap| (inherited.add(tap), machine.mac)),
        };

        let program = machine.program.unwrap_or_else(|| PROGRAM.into());
        let mut command = Command::new(&program);
        command.args(arguments::confined(&parts)).current_dir("/").env_clear();
        // The path is how it was found, and nothing else of our environment concerns it.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into()));
        command.envs(preload.into_iter().flatten());
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
        let (opening, observed) = Qmp::open(control, incoming);
        let process = Process::spawn(command, explain(observed.clone()))
            .map_err(|source| VmmError::Spawn { program: program.display().to_string(), source })?;
        // A guest that boots is running already; this only makes sure that QEMU obeys us.
        let ready = async {
            let (mut qmp, greeting) = opening.ready().await?;
            transfer::prepare(&mut qmp).await?;
            Ok((qmp, greeting))
        };
        match ready.await {
            Ok((qmp, greeting)) => {
                let identity = identity::of(machine.accel, identity::version_in(&greeting));
                Ok((QemuVm::new(process, qmp, incoming, identity), observed))
            }
            Err(error) => {
                // A QEMU that ended says why on its standard error, which beats "connection closed".
                let gone = tokio::time::timeout(END_OF_FAILURE, process.wait()).await;
                Err(gone.map_or(VmmError::Control(error), VmmError::Exited))
            }
        }
    }

    async fn kernel_parameters(&self, accel: Accel, cmdline: &str) -> Result<String, VmmError> {
        match accel {
            Accel::Kvm => Ok(kernel_parameters::kvm(cmdline)),
            Accel::Tcg => {
                tokio::time::sleep(self.made.wait()).await;
                let khz = self.made.khz_since().ok_or(VmmError::Unsupported(
                    "this processor has no usable time stamp counter, without which guests cannot tell the time",
                ))?;
                Ok(kernel_parameters::tcg(khz, cmdline))
            }
        }
    }
}

/// How long a QEMU that closed its control connection may take to be gone.
const END_OF_FAILURE: std::time::Duration = std::time::Duration::from_millis(500);

#[async_trait]
impl Driver for Qemu {
    fn name(&self) -> &'static str {
        identity::NAME
    }

    async fn identity(&self, accel: Accel) -> Result<Identity, VmmError> {
        let version = self.version.get_or_try_init(identity::ask_version).await?;
        Ok(identity::of(accel, version.clone()))
    }

    async fn launch(&self, machine: Machine) -> Result<Box<dyn Vm>, VmmError> {
        let (vm, _) = self.start(machine).await?;
        Ok(Box::new(vm))
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

/// What tells the library about its surroundings. It finds the mapping that matters by the inode.
fn environment(
    preload: Preload,
    memory: BorrowedFd<'_>,
    inherited: &mut Inherited,
) -> Result<[(&'static str, String); 2], VmmError> {
    let inode = rustix::fs::fstat(memory)
        .map_err(|error| VmmError::Prepare { what: "memory", source: error.into() })?
        .st_ino;
    let library = inherited.add(preload.library);
    let socket = inherited.add(preload.socket);
    let device = preload.userfaultfd.map_or(-1, |fd| inherited.add(fd));
    Ok([
        ("LD_PRELOAD", format!("/proc/self/fd/{library}")),
        ("COLDFRAME_UFFD", format!("{socket}:{device}:{inode}")),
    ])
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
