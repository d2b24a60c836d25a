//! The threads that start programs.
//!
//! Starting one can wait for a disk, or for a file system that never answers, so it is done by a thread of its own that may
//! wait. The runtime has threads for that, too, but hands over work under a lock, and a thread that is woken needs the lock
//! first: it is put to sleep and woken once more. Here the work is in its place before the thread is woken, and nothing is
//! locked then. See `coldframe bench envd`.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

use tokio::sync::oneshot;

/// More at once wait for each other. So many have to hang before nothing can be started any more.
const MOST: usize = 512;
/// How long a thread waits for work, apart from the last one, which stays.
const REST: Duration = Duration::from_secs(10);
/// The stack of a thread, of which a start needs some KiB.
const STACK_BYTES: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

static POOL: Mutex<Pool> = Mutex::new(Pool { idle: Vec::new(), waiting: VecDeque::new(), threads: 0 });

struct Pool {
    idle: Vec<Arc<Seat>>,
    waiting: VecDeque<Job>,
    threads: usize,
}

/// Where a thread finds its work.
struct Seat {
    thread: Thread,
    job: Mutex<Option<Job>>,
}

/// Does something that may take long, and returns what it returned; `None` when it panicked, or there is no thread for it.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, done) = oneshot::channel();
    // Nobody may be waiting for it any more.
    submit(Box::new(move || drop(sender.send(work()))));
    done.await.ok()
}

fn submit(job: Job) {
    let mut pool = lock(&POOL);
    if let Some(seat) = pool.idle.pop() {
        drop(pool);
        *lock(&seat.job) = Some(job);
        seat.thread.unpark();
        return;
    }
    if pool.threads == MOST {
        pool.waiting.push_back(job);
        return;
    }
    pool.threads += 1;
    drop(pool);
    let thread = thread::Builder::new().name("start".into()).stack_size(STACK_BYTES);
    if thread.spawn(move || serve(job)).is_err() {
        lock(&POOL).threads -= 1;
    }
}

/// The life of a thread.
fn serve(first: Job) {
    let seat = Arc::new(Seat { thread: thread::current(), job: Mutex::new(None) });
    let mut job = first;
    loop {
        // Whoever waits for it hears that it came to nothing.
        let _ = catch_unwind(AssertUnwindSafe(job));
        job = match next(&seat) {
            Some(next) => next,
            None => return,
        };
    }
}

/// What to do next; `None` when there has been nothing for a while.
fn next(seat: &Arc<Seat>) -> Option<Job> {
    {
        let mut pool = lock(&POOL);
        if let Some(job) = pool.waiting.pop_front() {
            return Some(job);
        }
        pool.idle.push(Arc::clone(seat));
    }
    let mut rested = false;
    loop {
        if let Some(job) = lock(&seat.job).take() {
            return Some(job);
        }
        let is_last = {
            let mut pool = lock(&POOL);
            let is_last = pool.idle.len() == 1;
            // One that is in the list no more is about to get something to do.
            let at = pool.idle.iter().position(|other| Arc::ptr_eq(other, seat));
            if let Some(at) = at.filter(|_| rested && !is_last) {
                pool.idle.swap_remove(at);
                pool.threads -= 1;
                return None;
            }
            is_last
        };
        // A timer wakes up a guest that does nothing.
        if is_last {
            thread::park()
        } else {
            thread::park_timeout(REST)
        }
        rested = true;
    }
}

// Whatever panicked did so elsewhere.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn each_gets_what_it_asked_for_and_one_that_hangs_holds_up_nobody() {
        let (hang, hanging) = std::sync::mpsc::channel::<()>();
        let stuck = tokio::spawn(run(move || hanging.recv().is_err()));
        let all = join_all((0..2000).map(|number| run(move || number))).await;
        assert_eq!(all, (0..2000).map(Some).collect::<Vec<_>>());
        assert_eq!(run(|| assert!(std::hint::black_box(false))).await, None);
        // As many at once as are asked for.
        let barrier = Arc::new(Barrier::new(64));
        let met = join_all(
            (0..64).map(|_| Arc::clone(&barrier)).map(|barrier| run(move || barrier.wait().is_leader())),
        );
        assert!(met.await.iter().all(Option::is_some));
        drop(hang);
        assert_eq!(stuck.await.unwrap(), Some(true));
    }
}
