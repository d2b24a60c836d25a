//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use model::SandboxId;

/// Sandboxes for programs you do not trust, on your own machine, spoken to with the E2B SDKs.
#[derive(Debug, Parser)]
#[command(name = "coldframe", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct State {
    /// Directory of everything that is kept.
    #[arg(long = "state", env = "COLDFRAME_STATE", default_value = crate::state::DEFAULT, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: REST API and sandbox traffic on one port.
    Up(Up),
    /// Stop the server and every sandbox, and remove what they used.
    Down {
        #[command(flatten)]
        state: State,
    },
    /// Print `export` lines that point the E2B SDKs and CLI at this server: eval "$(coldframe env)".
    Env {
        #[command(flatten)]
        state: State,
        /// Wait so many seconds for a server that is starting.
        #[arg(long, value_name = "SECONDS", default_value_t = 0)]
        wait: u64,
    },
    /// Check what this host offers, with a hint for each thing that is missing.
    Doctor {
        #[command(flatten)]
        state: State,
    },
    /// API keys.
    #[command(subcommand)]
    Key(Key),
    /// Templates.
    #[command(subcommand)]
    Template(Template),
    /// Sandboxes of the key that `env` prints.
    #[command(subcommand)]
    Sandbox(Sandbox),
    /// What templates, paused sandboxes and snapshots are made of. Needs no server, and may run beside one.
    #[command(subcommand)]
    Build(Build),
    /// Show what snapshots take on the disk, what holds them, and what a delete would free.
    Storage {
        #[command(flatten)]
        state: State,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Measure a promise, with the floor in the same run.
    #[command(subcommand)]
    Bench(Bench),
    /// Run one sandbox. Started by the server, not by hand.
    #[command(hide = true)]
    Supervisor {
        /// The sandbox's directory.
        dir: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) state: State,
    /// Address of the one public port.
    #[arg(long, env = "COLDFRAME_LISTEN", default_value = "127.0.0.1:3000", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Domain under which sandboxes have host names: <port>-<id>.<domain>. Any is accepted when none is given.
    #[arg(long, env = "COLDFRAME_DOMAIN", value_name = "DOMAIN")]
    pub(crate) domain: Option<String>,
    /// How guest instructions are executed.
    #[arg(long, env = "COLDFRAME_ACCEL", value_enum, default_value_t = AccelChoice::Auto)]
    pub(crate) accel: AccelChoice,
    /// Run in the background and return when the server answers.
    #[arg(long)]
    pub(crate) detach: bool,
    /// Most sandboxes at once.
    #[arg(long, env = "COLDFRAME_MAX_SANDBOXES", default_value_t = 256, value_name = "N")]
    pub(crate) max_sandboxes: usize,
    /// Guest memory of all sandboxes together, in MiB; by default three quarters of the host's.
    #[arg(long, env = "COLDFRAME_MEMORY_MIB", value_name = "MIB")]
    pub(crate) memory: Option<u32>,
    /// Network slots that are kept ready.
    #[arg(long, env = "COLDFRAME_SLOTS", default_value_t = 8, value_name = "N")]
    pub(crate) slots: usize,
    /// How a sandbox starts from a template.
    #[arg(long, env = "COLDFRAME_START", value_enum, default_value_t = StartChoice::Snapshot)]
    pub(crate) start: StartChoice,
    /// What of a snapshot's memory is brought before a sandbox touches it.
    #[arg(long, env = "COLDFRAME_PREFETCH", value_enum, default_value_t = PrefetchChoice::WorkingSet)]
    pub(crate) prefetch: PrefetchChoice,
    /// Machines that are kept standing by for the next sandboxes; each takes some 60 MiB.
    #[arg(long, env = "COLDFRAME_MACHINES", default_value_t = 2, value_name = "N")]
    pub(crate) machines: usize,
    /// How long a guest may take to boot.
    #[arg(long, env = "COLDFRAME_READY_TIMEOUT", default_value_t = 50, value_name = "SECONDS")]
    pub(crate) ready_timeout: u64,
    /// Name servers of the guests.
    #[arg(
        long,
        env = "COLDFRAME_DNS",
        value_delimiter = ',',
        default_value = "1.1.1.1,8.8.8.8",
        value_name = "IP"
    )]
    pub(crate) dns: Vec<std::net::Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StartChoice {
    /// It goes on from a snapshot that was made of the template once.
    Snapshot,
    /// It boots, for hosts on which going on from a snapshot does not work. Pausing and resuming are not affected.
    Boot,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrefetchChoice {
    /// What the first moments of the last resume touched. An idle sandbox holds little more.
    WorkingSet,
    /// That, and the rest in the background: a sandbox soon waits for no page any more, and holds all memory of its
    /// snapshot.
    Everything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccelChoice {
    /// KVM where a guest really boots with it, TCG elsewhere.
    Auto,
    /// Hardware virtualization.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make a key and print it; it is not kept and cannot be shown again.
    Create {
        #[command(flatten)]
        state: State,
        /// The team that the key acts for; made when it does not exist.
        #[arg(long, default_value = "default")]
        team: String,
        /// What the key is for.
        #[arg(long, default_value = "cli")]
        name: String,
    },
    /// List keys by what is known of them.
    List {
        #[command(flatten)]
        state: State,
    },
    /// Delete a key; it stops working within a second.
    Delete {
        #[command(flatten)]
        state: State,
        /// The id that `key list` shows.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Template {
    /// Make the base template, unless it is there already.
    Base {
        #[command(flatten)]
        state: State,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sandbox {
    /// List sandboxes, running and paused.
    List {
        #[command(flatten)]
        state: State,
        /// For programs.
        #[arg(long)]
        json: bool,
    },
    /// Pause one: what it is goes to the disk, and it uses neither processor nor memory.
    Pause {
        #[command(flatten)]
        state: State,
        /// The id that `list` shows.
        id: SandboxId,
        /// Keep its disk alone: it boots when it is resumed.
        #[arg(long)]
        disk_only: bool,
    },
    /// Have a paused one go on.
    Resume {
        #[command(flatten)]
        state: State,
        /// The id that `list` shows.
        id: SandboxId,
        /// Boot it from its disk, whatever there is of its memory.
        #[arg(long)]
        reboot: bool,
        /// How long it lives from then on.
        #[arg(long, default_value_t = 300, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Keep what a running one is now, for any number of sandboxes to start from, and print what that is called.
    Snapshot {
        #[command(flatten)]
        state: State,
        /// The id that `list` shows.
        id: SandboxId,
        /// The snapshot's name, by which it takes the place of another.
        #[arg(long)]
        name: Option<String>,
        /// Keep its disk alone: what starts from it boots.
        #[arg(long)]
        disk_only: bool,
    },
    /// Look into the kernel of a running one with gdb. It stands still meanwhile, and runs on afterwards. Needs the state
    /// directory of the server that it runs on, and no key.
    Debug(Debug),
    /// End one, running or paused, and delete what is kept of it. Its snapshots stay.
    Kill {
        #[command(flatten)]
        state: State,
        /// The id that `list` shows.
        id: SandboxId,
    },
}

impl Sandbox {
    pub(crate) const fn state(&self) -> &State {
        match self {
            Self::List { state, .. }
            | Self::Pause { state, .. }
            | Self::Resume { state, .. }
            | Self::Snapshot { state, .. }
            | Self::Debug(Debug { state, .. })
            | Self::Kill { state, .. } => state,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Debug {
    #[command(flatten)]
    pub(crate) state: State,
    /// The id that `list` shows.
    pub(crate) id: SandboxId,
    #[command(flatten)]
    pub(crate) gdb: Gdb,
}

/// What gdb is told.
#[derive(Debug, Args)]
pub(crate) struct Gdb {
    /// The kernel with its debug symbols; by default what is beside the kernel, what COLDFRAME_DEBUG_ARTIFACTS_URL has, or
    /// Debian's package of them.
    #[arg(long = "gdb-symbols", value_name = "FILE")]
    pub(crate) symbols: Option<PathBuf>,
    /// The macros in place of those that come with this program.
    #[arg(long = "gdb-macros", value_name = "FILE")]
    pub(crate) macros: Option<PathBuf>,
    /// Do this instead of asking; may be given several times.
    #[arg(long = "gdb-exec", value_name = "COMMAND")]
    pub(crate) exec: Vec<String>,
    /// Do what is in this file instead of asking, before what `--gdb-exec` says.
    #[arg(long = "gdb-script", value_name = "FILE")]
    pub(crate) script: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Build {
    /// Show what a build is and where its pages are.
    Inspect(Inspect),
    /// Show what is not the same in two builds.
    Diff(Diff),
    /// Have a build go on, in a machine of its own that is gone afterwards: with a shell, with a command, so often to
    /// measure it, or in a debugger.
    Resume(Resume),
    /// Make a build: of another one, or of a directory that becomes a disk, with what is started in it.
    Create(BuildCreate),
    /// Take a build to another state directory, where it needs no other one, and its kernel with it.
    Copy(BuildCopy),
    /// Keep a workshop. Started by the commands that use one, not by hand.
    #[command(hide = true)]
    Keep {
        #[command(flatten)]
        state: State,
    },
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["from", "from_dir"])))]
pub(crate) struct BuildCreate {
    #[command(flatten)]
    pub(crate) state: State,
    /// The build, paused sandbox or snapshot that it continues; `base` for what sandboxes of the base template go on from.
    #[arg(long, value_name = "BUILD")]
    pub(crate) from: Option<String>,
    /// The directory that becomes its disk, with owners and modes. A shell at /bin/sh is all that has to be in it.
    #[arg(long, value_name = "DIR")]
    pub(crate) from_dir: Option<PathBuf>,
    /// What is run in it first, to its end.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) setup_cmd: Option<String>,
    /// What is started then and runs on in everything that is made of it.
    #[arg(long, value_name = "COMMAND", requires = "ready_cmd")]
    pub(crate) start_cmd: Option<String>,
    /// What succeeds when that is ready.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) ready_cmd: Option<String>,
    /// How long all of these may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) timeout: u64,
    /// Who they run as; made where there is none, with number 1000, if it is `user`.
    #[arg(long, default_value = "user")]
    pub(crate) user: String,
    /// Processors of a machine whose disk is a directory.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "from", value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) vcpus: u8,
    /// Its memory.
    #[arg(long, value_name = "MIB", default_value_t = 512, conflicts_with = "from", value_parser = clap::value_parser!(u32).range(128..))]
    pub(crate) memory: u32,
    /// The size of its disk.
    #[arg(long, value_name = "MIB", default_value_t = 8192, conflicts_with = "from", value_parser = clap::value_parser!(u32).range(64..))]
    pub(crate) size: u32,
    /// Its kernel, by its name in the directory `kernels`; by default that of the base template.
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub(crate) kernel: Option<String>,
    /// Let it reach nothing.
    #[arg(long)]
    pub(crate) no_egress: bool,
    /// What it is called, as a snapshot.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BuildCopy {
    #[command(flatten)]
    pub(crate) state: State,
    /// A build, a paused sandbox or a snapshot; `base` for what sandboxes of the base template go on from.
    pub(crate) build: String,
    /// The state directory that it goes to; made when there is none.
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// What it is called there, as a snapshot.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) state: State,
    /// A build, a paused sandbox or a snapshot; `base` for what sandboxes of the base template go on from.
    pub(crate) build: String,
    /// Run this with the guest's shell in place of an interactive one; its exit status becomes ours.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) cmd: Option<String>,
    /// Who the shell or the command runs as.
    #[arg(long, default_value = "user")]
    pub(crate) user: String,
    /// Do nothing in it but resume it, so often, and show how long each phase took.
    #[arg(long, value_name = "N", conflicts_with_all = ["cmd", "pause"])]
    pub(crate) iterations: Option<std::num::NonZeroUsize>,
    /// Before each resume, have the host forget what it has in memory of the build.
    #[arg(long)]
    pub(crate) cold: bool,
    /// Bring no page before it is touched.
    #[arg(long)]
    pub(crate) no_prefetch: bool,
    /// Boot it from its disk, whatever there is of its memory.
    #[arg(long)]
    pub(crate) reboot: bool,
    /// Let it reach nothing.
    #[arg(long)]
    pub(crate) no_egress: bool,
    /// Pause it afterwards and print the build that it became; after a command, unless that failed.
    #[arg(long)]
    pub(crate) pause: bool,
    /// Keep its disk alone.
    #[arg(long, requires = "pause")]
    pub(crate) fs_only: bool,
    /// What the build that it became is called, as a snapshot.
    #[arg(long, requires = "pause")]
    pub(crate) name: Option<String>,
    /// The port of this machine on which the ports of the guest are reached; by default that of the variable PROXY_PORT, or
    /// 5007, or when that is taken, any.
    #[arg(long, value_name = "PORT")]
    pub(crate) proxy_port: Option<std::num::NonZeroU16>,
    /// Hold it before its first instruction and hand it to gdb. It reaches nothing.
    #[arg(long, conflicts_with_all = ["cmd", "iterations", "pause", "reboot"])]
    pub(crate) gdb: bool,
    /// The VMM's program, in place of the usual one; of the same version, or it cannot take over the machine.
    #[arg(long, value_name = "FILE")]
    pub(crate) gdb_vmm: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) told: Gdb,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) state: State,
    /// A build, a paused sandbox or a snapshot; `base` for what sandboxes of the base template go on from.
    pub(crate) build: String,
    /// Read all of it, and show everything that is not as it was written; fails when there is something.
    #[arg(long)]
    pub(crate) validate: bool,
    /// Show every piece of its images.
    #[arg(long)]
    pub(crate) ranges: bool,
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    pub(crate) state: State,
    /// What there was, named as for `inspect`.
    pub(crate) from: String,
    /// What became of it.
    pub(crate) to: String,
    /// Show every piece that differs.
    #[arg(long)]
    pub(crate) ranges: bool,
    /// Show which files of the disk differ, and in what. Reads all files of both.
    #[arg(long)]
    pub(crate) files: bool,
    /// For programs.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// From a create request until its first command has finished, against a bare VMM restore of the same image.
    Create {
        #[command(flatten)]
        state: State,
        /// How many sandboxes are created, one after the other.
        #[arg(long, default_value_t = 10)]
        count: usize,
    },
    /// From a pause request until it is acknowledged, against writing and syncing the same number of bytes.
    Pause {
        #[command(flatten)]
        state: State,
        /// How many pauses.
        #[arg(long, default_value_t = 10)]
        count: usize,
        /// Guest memory that is filled with random data before each pause.
        #[arg(long, default_value_t = 128, value_name = "MIB")]
        dirty: u64,
    },
    /// For how long a sandbox stands still while a snapshot of it is made, against copying as many bytes.
    Checkpoint {
        #[command(flatten)]
        state: State,
        /// How many snapshots.
        #[arg(long, default_value_t = 10)]
        count: usize,
        /// Guest memory that is filled with random data before each snapshot.
        #[arg(long, default_value_t = 103, value_name = "MIB")]
        dirty: u64,
    },
    /// From a fork request until each new sandbox has finished a first command.
    Fork {
        #[command(flatten)]
        state: State,
        /// How often.
        #[arg(long, default_value_t = 3)]
        count: usize,
        /// How many sandboxes each time.
        #[arg(long, default_value_t = 20)]
        forks: usize,
    },
    /// From a connect request to a paused sandbox until it runs, answers, and has finished a first command.
    Resume {
        #[command(flatten)]
        state: State,
        /// How many resumes.
        #[arg(long, default_value_t = 10)]
        count: usize,
        /// After so many pauses more, everything once again: a long life must not slow it down.
        #[arg(long, default_value_t = 0, value_name = "PAUSES")]
        depth: usize,
    },
    /// Guest memory without a guest: faults, prefetching and the search for changed pages, against bare system calls.
    Memory {
        /// Where the image is stored meanwhile; by default where temporary files are.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// The size of the image.
        #[arg(long, default_value_t = 1024, value_name = "MIB")]
        size: u64,
        /// How often everything is measured.
        #[arg(long, default_value_t = 8)]
        rounds: usize,
    },
    /// Opening and reading an image at the end of a long row of pauses, against the end of a short one.
    Depth {
        /// Where the builds are stored meanwhile; by default where temporary files are.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// The size of the image.
        #[arg(long, default_value_t = 256, value_name = "MIB")]
        size: u64,
        /// The longest row.
        #[arg(long, default_value_t = 2000, value_name = "PAUSES")]
        depth: usize,
    },
    /// The guest daemon outside a guest: processes, streams and files against bare system calls and sockets.
    Envd {
        /// Starts of /bin/true.
        #[arg(long, default_value_t = 300)]
        count: usize,
    },
    /// Touch memory as standard input says. Started by `memory`, not by hand.
    #[command(hide = true)]
    Touch {
        /// The descriptor of the memfd.
        memfd: i32,
        /// Its size in pages.
        pages: u64,
    },
    /// Restore builds as standard input says. Started by `create` and `resume`, not by hand.
    #[command(hide = true)]
    Restore {
        /// Where builds are kept.
        store: PathBuf,
        /// The network namespace to be in.
        netns: PathBuf,
    },
}
