//! `coldframe build`.

use std::num::{NonZeroU16, NonZeroUsize};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Dns, Gdb, State};
use crate::workshop::MAX_PLACES;

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
    /// Lay a layer of an image over a directory. Started by `create`, not by hand.
    #[command(hide = true)]
    Unpack {
        /// The layer.
        layer: PathBuf,
        /// The directory.
        dir: PathBuf,
        /// The most that may be in it, in bytes.
        limit: u64,
    },
    /// Keep a workshop. Started by the commands that use one, not by hand.
    #[command(hide = true)]
    Keep {
        #[command(flatten)]
        state: State,
        #[command(flatten)]
        place: Workshop,
    },
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("source").required(true).args(["from", "from_dir", "from_image"])))]
pub(crate) struct BuildCreate {
    #[command(flatten)]
    pub(crate) state: State,
    /// The build, paused sandbox or snapshot that it continues; `base` for what sandboxes of the base template go on from.
    #[arg(long, value_name = "BUILD")]
    pub(crate) from: Option<String>,
    /// The directory that becomes its disk, with owners and modes. A shell at /bin/sh is all that has to be in it.
    #[arg(long, value_name = "DIR")]
    pub(crate) from_dir: Option<PathBuf>,
    /// The container image that becomes its disk, by its name in a registry. Its variables are those of every login shell in
    /// it.
    #[arg(long, value_name = "IMAGE")]
    pub(crate) from_image: Option<String>,
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
    /// Processors of a machine whose disk is a directory or an image.
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
    #[command(flatten)]
    pub(crate) dns: Dns,
    #[command(flatten)]
    pub(crate) place: Workshop,
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
    pub(crate) iterations: Option<NonZeroUsize>,
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
    pub(crate) proxy_port: Option<NonZeroU16>,
    #[command(flatten)]
    pub(crate) dns: Dns,
    #[command(flatten)]
    pub(crate) place: Workshop,
    /// Hold it before its first instruction and hand it to gdb. It reaches nothing.
    #[arg(long, conflicts_with_all = ["cmd", "iterations", "pause", "reboot"])]
    pub(crate) gdb: bool,
    /// The VMM's program, in place of the usual one; of the same version, or it cannot take over the machine.
    #[arg(long, value_name = "FILE")]
    pub(crate) gdb_vmm: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) told: Gdb,
}

/// Where a command has its machines.
#[derive(Debug, Args)]
pub(crate) struct Workshop {
    /// The number of the command's workshop, after which its directory, network slots and control groups are called; by default
    /// the first that no other command uses.
    #[arg(long = "workshop", value_name = "N", value_parser = clap::value_parser!(u16).range(..i64::from(MAX_PLACES)))]
    pub(crate) number: Option<u16>,
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
