//! What the second process does. It is the test program itself, which runs only the test `peer` then.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::model::{PAGE, Random, content, pattern};
use super::userfaultfd;

/// Where it finds what to do: kind, control socket, memory, socket for the userfaultfd, size, page size.
pub(crate) const ENVIRONMENT: &str = "GUEST_MEMORY_TEST_PEER";

/// The test `peer` of each program: nothing, unless it was started as the second process.
pub(crate) fn main() {
    let Ok(parameters) = std::env::var(ENVIRONMENT) else { return };
    let parts: Vec<&str> = parameters.split(':').collect();
    let [kind, control, memory, socket, size, page_size] = parts.try_into().unwrap();
    let inherit = |number: &str| {
        let number: RawFd = number.parse().unwrap();
        // SAFETY: we were started with it for our own use.
        unsafe { OwnedFd::from_raw_fd(number) }
    };
    let control = UnixStream::from(inherit(control));
    let memory = File::from(inherit(memory));
    let size: usize = size.parse().unwrap();
    let mapping = match kind {
        "Anonymous" | "Protected" => {
            anonymous(size, page_size.parse().unwrap(), inherit(socket).into(), kind == "Protected")
        }
        _ => map(size, memory.as_raw_fd()),
    };
    serve(&control, &Guest { mapping, size, memory });
    std::process::exit(0);
}

/// Maps memory the way every program does, through the C library.
fn map(size: usize, file: RawFd) -> usize {
    let visible = if file < 0 { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS } else { libc::MAP_SHARED };
    // SAFETY: a new mapping, where the kernel likes it.
    let mapping = unsafe {
        libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, visible, file, 0)
    };
    assert_ne!(mapping, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    mapping.expose_provenance()
}

fn anonymous(size: usize, page_size: usize, socket: UnixStream, protected: bool) -> usize {
    let mapping = map(size, -1);
    let (features, mode) =
        if protected { (userfaultfd::PAGEFAULT_FLAG_WP, userfaultfd::WRITE_PROTECT) } else { (0, 0) };
    let uffd = userfaultfd::open_with(features);
    userfaultfd::register(&uffd, mapping, size, userfaultfd::MISSING | mode);
    userfaultfd::send(&socket, userfaultfd::json(mapping, size, page_size).as_bytes(), &[uffd.as_fd()]);
    // As Firecracker does, it keeps both.
    std::mem::forget((uffd, socket));
    mapping
}

struct Guest {
    mapping: usize,
    size: usize,
    memory: File,
}

impl Guest {
    fn pages(&self) -> u64 {
        (self.size / PAGE) as u64
    }

    fn address(&self, page: u64) -> *mut u8 {
        assert!(page < self.pages());
        std::ptr::with_exposed_provenance_mut(self.mapping + usize::try_from(page).unwrap() * PAGE)
    }

    /// Reads a page, faulting if it has to.
    fn read(&self, page: u64) -> [u8; PAGE] {
        let mut bytes = [0; PAGE];
        // SAFETY: the page is inside the mapping. Others may write meanwhile; any bytes are a value.
        unsafe { std::ptr::copy_nonoverlapping(self.address(page), bytes.as_mut_ptr(), PAGE) };
        bytes
    }

    fn write(&self, page: u64, bytes: &[u8]) {
        assert!(bytes.len() <= PAGE);
        // SAFETY: the page is inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.address(page), bytes.len()) };
    }

    fn advise(&self, first: u64, pages: u64, advice: i32) {
        let length = usize::try_from(pages).unwrap() * PAGE;
        // SAFETY: the pages are inside the mapping, and nobody has references to them.
        let result = unsafe { libc::madvise(self.address(first).cast(), length, advice) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Lets the kernel write the page, as a device of a monitor does when it reads from a disk.
    fn write_by_kernel(&self, page: u64, bytes: &[u8]) {
        let (mut from, to) = UnixStream::pair().unwrap();
        from.write_all(bytes).unwrap();
        // SAFETY: the page is inside the mapping, and nobody has references to it.
        let read = unsafe { libc::read(to.as_raw_fd(), self.address(page).cast(), bytes.len()) };
        assert_eq!(usize::try_from(read).unwrap(), bytes.len());
    }

    /// Threads that read all pages, each in its own order.
    fn read_all(&self, threads: u64) {
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    // An odd step visits every page of a power of two.
                    assert!(self.pages().is_power_of_two());
                    let step = Random(thread + 1).next() | 1;
                    for index in 0..self.pages() {
                        let page = index.wrapping_mul(step).wrapping_add(thread) % self.pages();
                        assert!(self.read(page) == content(page), "page {page}");
                    }
                });
            }
        });
    }

    /// Threads that read while others give pages away: a page has its content, or zeros, and zeros for ever once it
    /// was given away. `advice` is how.
    fn storm(&self, advice: i32, time: Duration, seed: u64) {
        let removed: Vec<AtomicBool> = (0..self.pages()).map(|_| AtomicBool::new(false)).collect();
        let removed = &removed;
        let end = Instant::now() + time;
        std::thread::scope(|scope| {
            for thread in 0..3 {
                scope.spawn(move || {
                    let mut random = Random(seed * 100 + thread);
                    while Instant::now() < end {
                        let page = random.below(self.pages());
                        let gone = removed[usize::try_from(page).unwrap()].load(Ordering::SeqCst);
                        let bytes = self.read(page);
                        // Given away in the middle of being read, the rest of it is zero.
                        let image = content(page);
                        let words = bytes.as_chunks::<8>().0.iter().zip(image.as_chunks::<8>().0);
                        assert!(
                            words.into_iter().all(|(a, b)| a == b || *a == [0; 8]),
                            "page {page} is wrong"
                        );
                        assert!(!gone || bytes == [0; PAGE], "page {page} came back");
                    }
                });
            }
            for thread in 0..2 {
                scope.spawn(move || {
                    let mut random = Random(seed * 100 + 50 + thread);
                    while Instant::now() < end {
                        let first = random.below(self.pages());
                        let pages = 1 + random.below(16.min(self.pages() - first));
                        self.advise(first, pages, advice);
                        for page in first..first + pages {
                            removed[usize::try_from(page).unwrap()].store(true, Ordering::SeqCst);
                        }
                        std::thread::sleep(Duration::from_micros(random.below(300)));
                    }
                });
            }
        });
    }
}

fn serve(control: &UnixStream, guest: &Guest) {
    let mut answer = control;
    for line in BufReader::new(control).lines() {
        let line = line.unwrap();
        let mut words = line.split(' ');
        let command = words.next().unwrap();
        let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
        match (command, numbers.as_slice()) {
            ("read", [page]) => {
                answer.write_all(&guest.read(*page)).unwrap();
                continue;
            }
            ("write", [page, seed]) => guest.write(*page, &pattern(*seed)),
            ("zero", [page]) => guest.write(*page, &[0; PAGE]),
            ("poke", [page]) => guest.write(*page, &content(*page)[..1]),
            ("kernel", [page, seed]) => guest.write_by_kernel(*page, &pattern(*seed)),
            ("pwrite", [page, seed]) => {
                guest.memory.write_all_at(&pattern(*seed), page * PAGE as u64).unwrap()
            }
            ("punch", [first, pages]) => {
                use rustix::fs::{FallocateFlags, fallocate};
                let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&guest.memory, flags, first * PAGE as u64, pages * PAGE as u64).unwrap();
            }
            ("remove", [first, pages]) => guest.advise(*first, *pages, libc::MADV_REMOVE),
            ("dontneed", [first, pages]) => guest.advise(*first, *pages, libc::MADV_DONTNEED),
            ("read-all", [threads]) => guest.read_all(*threads),
            ("storm-remove", [ms, seed]) => guest.storm(libc::MADV_REMOVE, Duration::from_millis(*ms), *seed),
            ("storm-dontneed", [ms, seed]) => {
                guest.storm(libc::MADV_DONTNEED, Duration::from_millis(*ms), *seed)
            }
            ("environment", []) => {
                // What a child would inherit.
                assert!(
                    std::env::var_os("COLDFRAME_UFFD").is_none() && std::env::var_os("LD_PRELOAD").is_none()
                );
            }
            ("map-again", []) => {
                map(guest.size, guest.memory.as_raw_fd());
            }
            _ => panic!("unknown command {line}"),
        }
        answer.write_all(b"ok\n").unwrap();
    }
}
