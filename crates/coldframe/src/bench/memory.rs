//! `coldframe bench memory`: a process touches memory that is filled from an image, with nothing else around it.
//!
//! The floors are the same system calls without what makes them safe: faults answered from a buffer by a loop of three
//! calls, pages filled from a buffer by one thread, and a single walk through the page table. They and the real thing
//! take turns, each time with a new process and new memory.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifacts::Image;
use build::{PAGE_BYTES, Pages};
use guest_memory::handshake::Handshake;
use guest_memory::{Options, PageServer, dirty, floor};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::image;
use super::report::{Samples, bar, gigabytes};
use super::toucher::Toucher;

/// Pages that are touched in a round: 64 MiB.
const FAULTS: u64 = 16_384;
/// What the floor fills at once: as much as a system call can take before its own time no longer counts.
const PIECE_BYTES: u64 = 1 << 20;
/// One page in a hundred is written to before the search.
const WRITTEN_STEP: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn run(dir: Option<&Path>, size: u64, rounds: usize) -> Result<(), String> {
    let pages = (size << 20) / PAGE_BYTES;
    if pages < FAULTS || rounds == 0 {
        let least = (FAULTS * PAGE_BYTES) >> 20;
        return Err(format!("an image of at least {least} MiB and one round are needed"));
    }
    let parent = dir.map_or_else(std::env::temp_dir, Path::to_owned);
    let dir = tempfile::Builder::new()
        .prefix("coldframe-bench-")
        .tempdir_in(&parent)
        .map_err(|error| format!("{}: {error}", parent.display()))?;
    let content = image::content(pages);
    let stored = image::store(dir.path(), &content)?;
    println!("image    {size} MiB in {}, just written", dir.path().display());
    faults(&stored, &content, rounds)?;
    prefetch(&stored, &content, rounds)?;
    scan(&stored, rounds)
}

fn faults(stored: &Arc<Image>, content: &[u8], rounds: usize) -> Result<(), String> {
    let (mut floor, mut served) = (Samples::default(), Samples::default());
    let (mut floor_rounds, mut rounds_served) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let (mut process, handshake) = Toucher::start(FAULTS)?;
        let times = std::thread::scope(|scope| {
            let handler = scope.spawn(move || floor::answer_faults(handshake, content, FAULTS));
            let times = process.read(FAULTS);
            let answered = handler.join().map_err(|_| "the floor has panicked".to_owned())?;
            answered.map_err(|error| format!("the floor: {error}")).and(times)
        })?;
        keep(&times, &mut floor, &mut floor_rounds);

        let (mut process, handshake) = Toucher::start(FAULTS)?;
        let server = serve(handshake, stored)?;
        let times = process.read(FAULTS)?;
        drop(process);
        server.stop();
        keep(&times, &mut served, &mut rounds_served);
    }
    floor.print_micros("floor: poll, read, copy");
    served.print_micros("fault service");
    let ratio = served.ratio(&floor);
    bar("fault service", ratio, "x floor", ratio <= 1.3, "<= 1.3 x");
    floor_rounds.print_raw("floor: median of each round");
    rounds_served.print_raw("fault service: median of each round");
    Ok(())
}

fn keep(times: &[Duration], all: &mut Samples, medians: &mut Samples) {
    let mut round = Samples::default();
    for time in times {
        all.push(*time);
        round.push(*time);
    }
    medians.push(round.percentile(50));
}

fn prefetch(stored: &Arc<Image>, content: &[u8], rounds: usize) -> Result<(), String> {
    let (pages, bytes) = (stored.pages(), stored.pages() * PAGE_BYTES);
    let (mut floor, mut prefetched) = (Samples::default(), Samples::default());
    for _ in 0..rounds {
        let (process, handshake) = Toucher::start(pages)?;
        let begun = Instant::now();
        floor::fill(handshake, content, PIECE_BYTES).map_err(|error| format!("the floor: {error}"))?;
        floor.push(begun.elapsed());
        drop(process);

        let (process, handshake) = Toucher::start(pages)?;
        let server = serve(handshake, stored)?;
        prefetched.push(prefetch_all(&server, pages)?);
        drop(process);
        server.stop();
    }
    print_rate("floor: copies, one thread", bytes, &floor);
    let rate = print_rate("prefetch", bytes, &prefetched);
    bar("prefetch", rate, "GB/s", rate >= 2.5, ">= 2.5 GB/s");
    floor.print_raw("floor: copies, one thread");
    prefetched.print_raw("prefetch");
    Ok(())
}

fn scan(stored: &Arc<Image>, rounds: usize) -> Result<(), String> {
    let (pages, bytes) = (stored.pages(), stored.pages() * PAGE_BYTES);
    let (mut process, handshake) = Toucher::start(pages)?;
    let server = serve(handshake, stored)?;
    prefetch_all(&server, pages)?;
    process.write(WRITTEN_STEP)?;
    let (mut floor, mut scanned) = (Samples::default(), Samples::default());
    let mut found = Vec::new();
    for _ in 0..rounds {
        let begun = Instant::now();
        for region in server.regions() {
            floor::clean_pages(server.pid(), region).map_err(|error| format!("the floor: {error}"))?;
        }
        floor.push(begun.elapsed());
        let begun = Instant::now();
        let memfd = Some(process.memory.as_fd());
        found = dirty::scan(server.pid(), server.regions(), memfd, &server.removed())
            .map_err(|error| error.to_string())?;
        scanned.push(begun.elapsed());
    }
    drop(process);
    server.stop();
    // What changed must be among what was found; more costs time when it is compared.
    let found: BTreeSet<u64> = found.into_iter().flatten().collect();
    let written = (0..pages).step_by(usize::try_from(WRITTEN_STEP).unwrap_or(1));
    if let Some(lost) = written.clone().find(|page| !found.contains(page)) {
        return Err(format!("page {lost} was written to and not found"));
    }
    println!("{:<34} {:>9} pages, {} were written to", "found", found.len(), written.count());
    print_rate("floor: one walk", bytes, &floor);
    let rate = print_rate("scan for changed pages", bytes, &scanned);
    bar("scan for changed pages, one thread", rate, "GB/s", rate >= 8.0, ">= 8 GB/s");
    floor.print_raw("floor: one walk");
    scanned.print_raw("scan for changed pages");
    Ok(())
}

/// One line; the best rate, which is what counts, since noise only slows.
fn print_rate(name: &str, bytes: u64, samples: &Samples) -> f64 {
    let rate = |percent| gigabytes(bytes, samples.percentile(percent));
    println!("{name:<34} best {:>8.2} GB/s   p50 {:>8.2} GB/s", rate(0), rate(50));
    rate(0)
}

/// Prefetches everything; how long that took.
fn prefetch_all(server: &PageServer, pages: u64) -> Result<Duration, String> {
    let begun = Instant::now();
    server.prefetch(std::iter::once(0..pages).collect()).map_err(|error| error.to_string())?;
    let done = server.wait_prefetched(PATIENCE);
    let elapsed = begun.elapsed();
    let prefetched = server.stats().prefetched_pages;
    if !done || prefetched != pages {
        return Err(format!("{prefetched} of {pages} pages were prefetched within {PATIENCE:?}"));
    }
    Ok(elapsed)
}

/// A page server for a process, which ends with it.
fn serve(handshake: Handshake, stored: &Arc<Image>) -> Result<PageServer, String> {
    let pid = i32::try_from(handshake.pid).ok().and_then(Pid::from_raw).ok_or("no process")?;
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| error.to_string())?;
    let options = Options {
        on_failure: Box::new(move |error| {
            eprintln!("the page server failed: {error}");
            // It may be gone already.
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }),
        record: true,
    };
    let source = Arc::clone(stored) as Arc<dyn Pages>;
    PageServer::start(handshake, source, options).map_err(|error| error.to_string())
}
