//! `coldframe bench`.

use std::path::PathBuf;

use clap::Subcommand;

use super::State;

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
    /// From a command to gdb's prompt in a machine that is held before its first instruction, against gdb loading the symbols.
    Gdb {
        #[command(flatten)]
        state: State,
        /// How many sessions.
        #[arg(long, default_value_t = 5)]
        count: usize,
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
