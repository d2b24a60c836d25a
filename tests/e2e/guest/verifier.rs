//! Runs inside a sandbox: keeps checksummed buffers in memory and files on disk, and verifies them without end.
//!
//! A writer replaces some of them all the time, so that a pause finds one half written. What a test wrote is reported by
//! its digests, so that the test can compare it with what it asked for: an older state that is consistent in itself is a
//! loss, too.
//!
//! ```text
//! verifier DIRECTORY PORT SIZE MEMORY FILES
//!
//! GET  /state                      what was found so far
//! GET  /verify                     the same after a full pass, with the digest of everything that a test wrote
//! POST /write?SEED&memory-3&…      replaces these pieces; by what follows from the seed
//! ```
//!
//! Not a script: where processors are emulated, the code of an interpreter is translated anew after every resume, and that
//! is most of what a test would wait for.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, process, thread};

/// Pieces that the writer replaces by itself, half of them files.
const CHURNED: usize = 6;
/// A piece is replaced part by part.
const PARTS: usize = 16;
/// Between two checks, and between two pieces that the writer replaces.
const REST: Duration = Duration::from_millis(150);
/// For a request to come: its client may have gone in a pause.
const PATIENCE: Duration = Duration::from_secs(20);
const MAX_HEAD: usize = 8 << 10;

fn main() {
    let args: Vec<String> = env::args().collect();
    let number = |at: usize| args[at].parse::<usize>().expect("a number");
    let keeper = Keeper::new(args[1].clone(), number(3), [number(4), number(5)]);
    let keeper = Arc::new(Mutex::new(keeper));
    let listener = TcpListener::bind(("0.0.0.0", u16::try_from(number(2)).expect("a port"))).expect("a free port");
    println!("listening");
    let (checked, churned) = (Arc::clone(&keeper), Arc::clone(&keeper));
    thread::spawn(move || check_without_end(&checked));
    thread::spawn(move || churn_without_end(&churned));
    for stream in listener.incoming().flatten() {
        let keeper = Arc::clone(&keeper);
        thread::spawn(move || answer(stream, &keeper));
    }
}

fn check_without_end(keeper: &Mutex<Keeper>) {
    for at in 0.. {
        {
            let mut keeper = keeper.lock().unwrap();
            let all = keeper.pieces.len();
            keeper.check(at % all);
        }
        thread::sleep(REST);
    }
}

fn churn_without_end(keeper: &Mutex<Keeper>) {
    loop {
        {
            let mut keeper = keeper.lock().unwrap();
            keeper.generation += 1;
            let (generation, first) = (keeper.generation, keeper.pieces.len() - CHURNED);
            keeper.replace(first + generation % CHURNED, &format!("churn {generation}"));
        }
        thread::sleep(REST);
    }
}

// -- what is kept --------------------------------------------------------------------------------------------------------

/// All pieces and what they ought to hold.
struct Keeper {
    size: usize,
    pieces: Vec<Piece>,
    errors: Vec<String>,
    checks: usize,
    generation: usize,
}

struct Piece {
    name: String,
    store: Store,
    digest: String,
}

enum Store {
    /// A buffer that is overwritten in place.
    Memory(Vec<u8>),
    /// A file that stays open. Some are flushed after a write and read back from the disk.
    File { file: File, flushed: bool },
}

impl Keeper {
    fn new(directory: String, size: usize, [memory, files]: [usize; 2]) -> Self {
        fs::create_dir_all(&directory).expect("a directory");
        let mut keeper = Self { size, pieces: Vec::new(), errors: Vec::new(), checks: 0, generation: 0 };
        for index in 0..memory {
            keeper.add(format!("memory-{index}"), Store::Memory(vec![0; size]));
        }
        let file = |name: &str, index: usize| {
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file = file.open(format!("{directory}/{name}")).expect("a file");
            Store::File { file, flushed: index % 2 == 0 }
        };
        for index in 0..files {
            let name = format!("file-{index}");
            let store = file(&name, index);
            keeper.add(name, store);
        }
        for index in 0..CHURNED {
            let name = format!("churned-{index}");
            let store = if index % 2 == 0 { Store::Memory(vec![0; size]) } else { file(&name, index / 2) };
            keeper.add(name, store);
        }
        keeper
    }

    fn add(&mut self, name: String, store: Store) {
        self.pieces.push(Piece { name, store, digest: String::new() });
        self.replace(self.pieces.len() - 1, "first");
    }

    fn replace(&mut self, at: usize, seed: &str) {
        let piece = &mut self.pieces[at];
        let mut data = vec![0; self.size];
        shake128(format!("{seed}/{}", piece.name).as_bytes(), &mut data);
        piece.store.write(&data).expect("room for a piece");
        piece.digest = digest(&data);
    }

    fn check(&mut self, at: usize) {
        let piece = &self.pieces[at];
        let found = match piece.store.read(self.size) {
            Ok(data) => digest(&data),
            Err(error) => error.to_string(),
        };
        self.checks += 1;
        if found != piece.digest {
            let (name, wanted, checks) = (&piece.name, &piece.digest, self.checks);
            self.errors.push(format!("{name} holds {found}, not {wanted}, after {checks} checks"));
        }
    }

    /// What was found so far, and on demand the digests of what tests write, as JSON.
    fn told(&self, with_digests: bool) -> String {
        let errors: Vec<String> = self.errors.iter().map(|error| format!("{error:?}")).collect();
        let told = format!(
            r#""pid":{},"errors":[{}],"checks":{},"generation":{}"#,
            process::id(),
            errors.join(","),
            self.checks,
            self.generation
        );
        if !with_digests {
            return format!("{{{told}}}");
        }
        let written = &self.pieces[..self.pieces.len() - CHURNED];
        let digests: Vec<String> =
            written.iter().map(|piece| format!(r#""{}":"{}""#, piece.name, piece.digest)).collect();
        format!(r#"{{{told},"digests":{{{}}}}}"#, digests.join(","))
    }
}

impl Store {
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let part = data.len().div_ceil(PARTS);
        for (number, bytes) in data.chunks(part).enumerate() {
            match self {
                Self::Memory(held) => held[number * part..][..bytes.len()].copy_from_slice(bytes),
                Self::File { file, .. } => file.write_all_at(bytes, (number * part) as u64)?,
            }
            thread::yield_now();
        }
        match self {
            Self::File { file, flushed: true } => file.sync_data(),
            _ => Ok(()),
        }
    }

    fn read(&self, size: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(held) => Ok(held.clone()),
            Self::File { file, flushed } => {
                if *flushed {
                    forget(file);
                }
                let mut data = vec![0; size];
                file.read_exact_at(&mut data, 0)?;
                Ok(data)
            }
        }
    }
}

/// Drops what the kernel caches of a file, so that it comes from the disk.
fn forget(file: &File) {
    unsafe extern "C" {
        fn posix_fadvise(fd: i32, offset: i64, length: i64, advice: i32) -> i32;
    }
    const DONTNEED: i32 = 4;
    // SAFETY: takes numbers, and a descriptor that is open.
    unsafe { posix_fadvise(file.as_raw_fd(), 0, 0, DONTNEED) };
}

// -- who asks ------------------------------------------------------------------------------------------------------------

/// One request, whose client may be gone.
fn answer(mut stream: TcpStream, keeper: &Mutex<Keeper>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_nodelay(true).ok()?;
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut more = [0; 2048];
        let length = stream.read(&mut more).ok().filter(|length| *length > 0 && head.len() < MAX_HEAD)?;
        head.extend(&more[..length]);
    }
    let head = String::from_utf8(head).ok()?;
    let target = head.split(' ').nth(1)?;
    let body = match target.split_once('?') {
        None if target == "/verify" => verify(keeper),
        None => keeper.lock().unwrap().told(false),
        Some((_, wanted)) => write(keeper, wanted)?,
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .ok()
}

fn verify(keeper: &Mutex<Keeper>) -> String {
    let all = keeper.lock().unwrap().pieces.len();
    // One by one: the writer goes on.
    (0..all).for_each(|at| keeper.lock().unwrap().check(at));
    keeper.lock().unwrap().told(true)
}

fn write(keeper: &Mutex<Keeper>, wanted: &str) -> Option<String> {
    let (seed, names) = wanted.split_once('&')?;
    for name in names.split('&') {
        let mut keeper = keeper.lock().unwrap();
        let at = keeper.pieces.iter().position(|piece| piece.name == name)?;
        keeper.replace(at, seed);
    }
    Some(keeper.lock().unwrap().told(false))
}

// -- SHAKE128, of FIPS 202 -----------------------------------------------------------------------------------------------

const RATE: usize = 168;
const ROUNDS: [u64; 24] = [
    0x0000000000000001, 0x0000000000008082, 0x800000000000808a, 0x8000000080008000, 0x000000000000808b,
    0x0000000080000001, 0x8000000080008081, 0x8000000000008009, 0x000000000000008a, 0x0000000000000088,
    0x0000000080008009, 0x000000008000000a, 0x000000008000808b, 0x800000000000008b, 0x8000000000008089,
    0x8000000000008003, 0x8000000000008002, 0x8000000000000080, 0x000000000000800a, 0x800000008000000a,
    0x8000000080008081, 0x8000000000008080, 0x0000000080000001, 0x8000000080008008,
];

fn digest(data: &[u8]) -> String {
    let mut digest = [0; 32];
    shake128(data, &mut digest);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shake128(data: &[u8], out: &mut [u8]) {
    let mut state = [0_u64; 25];
    let absorb = |state: &mut [u64; 25], block: &[u8]| {
        for (lane, bytes) in state.iter_mut().zip(block.chunks_exact(8)) {
            *lane ^= u64::from_le_bytes(bytes.try_into().unwrap());
        }
        permute(state);
    };
    let blocks = data.chunks_exact(RATE);
    let mut last = [0; RATE];
    last[..blocks.remainder().len()].copy_from_slice(blocks.remainder());
    last[blocks.remainder().len()] ^= 0x1f;
    last[RATE - 1] ^= 0x80;
    blocks.for_each(|block| absorb(&mut state, block));
    absorb(&mut state, &last);
    for (number, block) in out.chunks_mut(RATE).enumerate() {
        if number > 0 {
            permute(&mut state);
        }
        let squeezed = state.iter().flat_map(|lane| lane.to_le_bytes());
        block.iter_mut().zip(squeezed).for_each(|(out, byte)| *out = byte);
    }
}

fn permute(state: &mut [u64; 25]) {
    for constant in ROUNDS {
        let mut parity = [0; 5];
        for x in 0..5 {
            parity[x] = (0..5).fold(0, |sum, y| sum ^ state[x + 5 * y]);
        }
        for x in 0..5 {
            let change = parity[(x + 4) % 5] ^ parity[(x + 1) % 5].rotate_left(1);
            (0..5).for_each(|y| state[x + 5 * y] ^= change);
        }
        let (mut x, mut y, mut moved, mut rotation) = (1, 0, state[1], 0);
        for step in 1..25 {
            rotation += step;
            (x, y) = (y, (2 * x + 3 * y) % 5);
            moved = std::mem::replace(&mut state[x + 5 * y], moved.rotate_left(rotation % 64));
        }
        for row in state.chunks_exact_mut(5) {
            let was: [u64; 5] = row.try_into().unwrap();
            for x in 0..5 {
                row[x] = was[x] ^ (!was[(x + 1) % 5] & was[(x + 2) % 5]);
            }
        }
        state[0] ^= constant;
    }
}
