//! A pause, and a snapshot of what runs, survives a power cut at any moment.
//!
//! The whole of it is watched: the build that becomes durable, the record that makes the pause count, the catalog that takes
//! the record over, the resume, the next pause, the kill; the build of a snapshot, its row and its name in the catalog, the one
//! that takes its place, the deletion. A process runs the real code ([`story`]) and is stopped after
//! every system call ([`recorder`]); what it has synced by then, and what not, is kept ([`disk`]). Then, for every one of
//! these moments, the power is cut: all that was not synced is lost, or nothing, or some of it in any order. What is left is
//! a directory, in which a server is started ([`restart`]).
//!
//! - Whatever somebody was told last is so: a paused sandbox has its record, and every page of its build is there and right.
//! - What was under way is as it was before or as it should become.
//! - A record never names a build that is missing or damaged.
//!
//! The same holds when a sync of the commit fails: the sandbox runs on, and nothing of the pause is left.

pub(crate) mod builds;
mod disk;
mod recorder;
mod restart;
mod story;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tokio::runtime::Runtime;

use disk::{Disk, Loss};
use recorder::Call;
use restart::Restarts;
pub(crate) use story::CatalogRecords;
use story::{State, Told};

/// Where the process that tells a story does so.
const PLACE: &str = "COLDFRAME_POWER_CUT";
/// Which one.
const STORY: &str = "COLDFRAME_POWER_CUT_STORY";
const OF_A_HOST: &str = "of a host";
const OF_ONE_COMMIT: &str = "of one commit";
/// How often some of what was not synced is lost, at each moment.
const MIXTURES: u64 = 3;

/// What a sandbox or a snapshot is when the power is back: the last pause, or, with zero, nothing.
#[derive(Debug, Clone, Default)]
struct Promise {
    told: u8,
    under_way: Vec<u8>,
}

type Promises = BTreeMap<String, Promise>;

/// The power can be cut now.
struct Moment {
    disk: Disk,
    promises: Promises,
}

impl Moment {
    /// Cuts it, in every way, at this moment, which is the `number`th.
    fn cut(&self, number: usize, restarts: &mut Restarts) {
        let first = number as u64 * MIXTURES;
        let losses = [Loss::Everything, Loss::Nothing, Loss::Content].into_iter();
        for loss in losses.chain((first..first + MIXTURES).map(Loss::Some)) {
            if let Err(error) = restarts.check(&self.disk.after(loss), &self.promises) {
                panic!("at moment {number}, with {loss:?} lost: {error}\n{:#?}", self.promises);
            }
        }
    }
}

fn promises(told: &str) -> Promises {
    let mut promises = Promises::new();
    for line in told.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [verb, sandbox, number] = words.as_slice() else { panic!("{line}") };
        let promise = promises.entry((*sandbox).to_owned()).or_default();
        let number = number.parse().unwrap();
        match *verb {
            "may" => promise.under_way.push(number),
            "is" => *promise = Promise { told: number, under_way: Vec::new() },
            _ => panic!("{line}"),
        }
    }
    promises
}

/// The process that the tests watch.
#[test]
#[ignore = "it is run by the tests that watch it"]
fn tells_a_story() {
    let (Ok(place), Ok(story)) = (std::env::var(PLACE), std::env::var(STORY)) else { return };
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", recorder::READY).unwrap();
    stdout.flush().unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let place = Place(place.into());
    let (state, told) = (place.state(), Told::at(&place.told()));
    match story.as_str() {
        OF_A_HOST => runtime().block_on(story::of_a_host(state, told)),
        OF_ONE_COMMIT => story::of_one_commit(&state, told),
        other => panic!("nobody knows the story {other}"),
    }
}

/// Where a story takes place.
struct Place(PathBuf);

impl Place {
    fn disk(&self) -> PathBuf {
        self.0.join("disk")
    }

    fn state(&self) -> State {
        State(self.disk().join("state"))
    }

    fn told(&self) -> PathBuf {
        self.0.join("told")
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Where syncing costs nothing, if there is such a place.
fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

/// Every moment of a story at which something had changed. One of its syncs may fail.
fn watch(story: &str, prepare: fn(&State), fails: Option<usize>) -> Vec<Moment> {
    let directory = tempfile::tempdir_in(memory()).unwrap();
    let place = Place(directory.path().to_owned());
    fs::create_dir(place.disk()).unwrap();
    prepare(&place.state());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "power_cut::tells_a_story", "--ignored", "--nocapture", "--test-threads=1"])
        .env(PLACE, &place.0)
        .env(STORY, story);
    let mut disk = Disk::new(&place.disk());
    let mut moments = Vec::new();
    let mut heard = 0;
    recorder::watch(command, fails, |call| {
        let mut changed = disk.look(&place.disk());
        if let Call::Sync(inode) = call {
            disk.sync(inode);
            changed = true;
        }
        let said = fs::read_to_string(place.told()).unwrap_or_default();
        // Before anybody was told anything nothing can be lost.
        if !said.is_empty() && (changed || said.len() > heard) {
            heard = said.len();
            moments.push(Moment { disk: disk.clone(), promises: promises(&said) });
        }
    });
    moments
}

/// Cuts the power at every moment.
fn cut(moments: &[Moment]) {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let part = moments.len().div_ceil(threads);
    thread::scope(|scope| {
        for (number, moments) in moments.chunks(part).enumerate() {
            scope.spawn(move || {
                let mut restarts = Restarts::new();
                (number * part..).zip(moments).for_each(|(number, moment)| moment.cut(number, &mut restarts));
            });
        }
    });
}

fn told_last(moments: &[Moment]) -> Vec<(&str, u8)> {
    let promises = &moments.last().unwrap().promises;
    promises.iter().map(|(sandbox, promise)| (sandbox.as_str(), promise.told)).collect()
}

#[test]
fn every_pause_survives_a_power_cut_at_any_moment() {
    let moments = watch(OF_A_HOST, |_| {}, None);
    let paused: Vec<_> = told_last(&moments).into_iter().filter(|(_, number)| *number != 0).collect();
    assert_eq!(
        paused,
        [("bystander", 1), ("compacted", 2), ("copied", 3), ("twice", 2)],
        "the story was told to its end"
    );
    cut(&moments);
}

#[test]
fn a_commit_that_fails_at_any_sync_leaves_nothing() {
    let mut syncs = 0;
    loop {
        let moments = watch(OF_ONE_COMMIT, story::prepare_one_commit, Some(syncs));
        cut(&moments);
        match told_last(&moments).as_slice() {
            [("unlucky", 0)] => {
                let found = moments.last().unwrap().disk.after(Loss::Nothing);
                let left: Vec<_> = found.keys().filter(|path| path.starts_with("state/store/")).collect();
                assert_eq!(left, [Path::new("state/store")], "after the sync {syncs}");
                syncs += 1;
            }
            [("unlucky", 1)] => break,
            other => panic!("{other:?}"),
        }
    }
    // Five objects and the manifest, their directory, the store; the record, the name of its directory, its name.
    assert_eq!(syncs, 6 + 2 + 3);
}
