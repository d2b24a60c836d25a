//! Whether guests run on this host's processor.
//!
//! That `/dev/kvm` is there says little: it may belong to a KVM in software that answers every question and then emulates
//! a stock kernel until it meets an instruction that it does not know. So a guest is booted, once, and the result kept
//! for as long as nothing that matters changes.

mod memo;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::Duration;

use guest_memory::GuestMemory;
use model::{MiB, VcpuCount};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::accel::{Accel, AccelChoice};
use crate::driver::{Vm, VmmError};
use crate::machine::{Confinement, Machine, RootDisk, Start};
use crate::qemu::Qemu;

/// What the guest prints when it has come to its own program.
const GREETING: &[u8] = b"coldframe-probe-ok";

/// How long the guest may take to get there. On hardware it needs less than a second, under nested virtualization up to
/// five; only a guest that hangs uses it up, and once.
const DEADLINE: Duration = Duration::from_secs(8);

/// How long a QEMU that ended may take to say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

const DEVICE: &str = "/dev/kvm";

/// What runs the guests on this host, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccelVerdict {
    /// What to use.
    pub accel: Accel,
    /// Why, as part of a sentence for a person.
    pub reason: String,
}

/// Finds what can run guests here. `kernel` and `initrd` are those of real guests; given `coldframe.probe` on the command
/// line they must print `coldframe-probe-ok` to the console. The result of a boot is kept in `cache_file` until the
/// kernel, the initramfs, QEMU, the processor or the host's kernel changes; a bad one until the host restarts.
///
/// # Errors
/// Only when the operator insists on KVM and there is none. With [`AccelChoice::Auto`] everything that goes wrong is the
/// reason for TCG.
pub async fn choose(
    choice: AccelChoice,
    kernel: &Path,
    initrd: &Path,
    cache_file: &Path,
) -> Result<AccelVerdict, VmmError> {
    match choice {
        AccelChoice::Tcg => Ok(tcg("it was chosen".into())),
        AccelChoice::Kvm => match open_device() {
            Ok(_) => Ok(AccelVerdict { accel: Accel::Kvm, reason: "it was chosen".into() }),
            Err(source) => Err(VmmError::Prepare { what: "accelerator (/dev/kvm)", source }),
        },
        AccelChoice::Auto => Ok(find_out(kernel, initrd, cache_file).await),
    }
}

async fn find_out(kernel: &Path, initrd: &Path, cache_file: &Path) -> AccelVerdict {
    if let Err(error) = open_device() {
        // Looking again costs nothing, so this is not remembered.
        return tcg(match error.kind() {
            io::ErrorKind::NotFound => format!(
                "{DEVICE} does not exist: the processor has no virtualization, it is switched off in the firmware or for \
                 this VM, or the module kvm_intel or kvm_amd is not loaded"
            ),
            io::ErrorKind::PermissionDenied => format!("{DEVICE} must not be opened by this user"),
            _ => format!("{DEVICE} cannot be opened: {error}"),
        });
    }
    let key = memo::Key::of_this_host(kernel, initrd);
    if let Some(verdict) = memo::recall(cache_file, &key) {
        return verdict;
    }
    let verdict = match boot(kernel, initrd).await {
        Ok(()) => AccelVerdict { accel: Accel::Kvm, reason: "a test guest booted under KVM".into() },
        Err(why) => tcg(format!("{DEVICE} is there, but a test guest did not boot with it: {why}")),
    };
    if let Err(error) = memo::remember(cache_file, &key, &verdict) {
        tracing::warn!(file = %cache_file.display(), %error, "cannot remember whether KVM works; the next start tests again");
    }
    verdict
}

fn tcg(reason: String) -> AccelVerdict {
    AccelVerdict { accel: Accel::Tcg, reason }
}

fn open_device() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(DEVICE)?.into())
}

/// Boots a guest under KVM until it greets; the error is why it did not.
async fn boot(kernel: &Path, initrd: &Path) -> Result<(), String> {
    let (console, theirs) = StdUnixStream::pair().map_err(|error| error.to_string())?;
    let console = console
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(console))
        .map_err(|error| error.to_string())?;
    let machine = Machine {
        vcpus: VcpuCount(1),
        memory: GuestMemory::create(MiB(256).bytes()).map_err(|error| error.to_string())?,
        start: Start::Boot {
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            cmdline: "coldframe.probe".into(),
        },
        root_disk: RootDisk::None,
        tap: None,
        mac: [0; 6],
        console: theirs.into(),
        accel: Accel::Kvm,
        program: None,
        confinement: Confinement::default(),
    };
    // What is left when the time is up is dropped, and dropping kills.
    timeout(DEADLINE, run(machine, console))
        .await
        .unwrap_or_else(|_| Err(format!("it was still silent after {} s", DEADLINE.as_secs())))
}

async fn run(machine: Machine, mut console: UnixStream) -> Result<(), String> {
    let (vm, mut observed) = Qemu::new().start(machine).await.map_err(|error| error.to_string())?;
    tokio::select! {
        greeted = wait_for_greeting(&mut console) => {
            if greeted {
                return Ok(());
            }
            let exit = timeout(LAST_WORDS, vm.wait()).await;
            Err(exit.map_or_else(|_| "it closed its console".into(), |exit| exit.to_string()))
        }
        // A kernel module that gave up leaves QEMU stopped, after it has said why.
        Ok(_) = observed.wait_for(|observed| observed.stopped) => {
            vm.kill();
            let exit = vm.wait().await;
            let words = exit.message.split("; ").next().filter(|words| !words.is_empty());
            Err(format!("the processor was stopped by the kernel ({})", words.unwrap_or("no reason given")))
        }
    }
}

/// Whether the greeting came before the console's end.
async fn wait_for_greeting(console: &mut UnixStream) -> bool {
    let mut seen = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = console.read(&mut chunk).await {
        seen.extend_from_slice(&chunk[..length]);
        if seen.windows(GREETING.len()).any(|window| window == GREETING) {
            return true;
        }
        // The greeting may be split, the rest is not needed.
        seen.drain(..seen.len().saturating_sub(GREETING.len()));
    }
    false
}
