//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use model::SandboxId;

mod bench;
mod build;

pub(crate) use bench::Bench;
pub(crate) use build::{Build, BuildCopy, BuildCreate, Diff, Inspect, Resume};

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
    #[command(flatten)]
    pub(crate) dns: Dns,
}

/// Whom guests ask for names.
#[derive(Debug, Args)]
pub(crate) struct Dns {
    /// Name servers of the guests.
    #[arg(
        id = "dns",
        long = "dns",
        env = "COLDFRAME_DNS",
        value_delimiter = ',',
        default_value = "1.1.1.1,8.8.8.8",
        value_name = "IP"
    )]
    pub(crate) servers: Vec<std::net::Ipv4Addr>,
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
