//! The NBD server against a hand-made client that can misbehave.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use disk::BlockDevice;
use disk::nbd::{Closed, NbdError, serve};
use proptest::prelude::*;

const SIZE: usize = 1 << 20;

/// A disk in memory that counts flushes and fails on demand.
#[derive(Default)]
struct Memory {
    bytes: Mutex<Vec<u8>>,
    flushes: AtomicUsize,
    error: Option<io::ErrorKind>,
}

impl Memory {
    fn new() -> Arc<Self> {
        Arc::new(Self { bytes: Mutex::new(vec![0; SIZE]), ..Self::default() })
    }

    fn on(&self, offset: u64, length: u64, f: impl FnOnce(&mut [u8])) -> io::Result<()> {
        if let Some(kind) = self.error {
            return Err(kind.into());
        }
        let start = usize::try_from(offset).unwrap();
        // Panics when the server lets a bad range through.
        f(&mut self.bytes.lock().unwrap()[start..start + usize::try_from(length).unwrap()]);
        Ok(())
    }
}

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        SIZE as u64
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.on(offset, buffer.len() as u64, |bytes| buffer.copy_from_slice(bytes))
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.on(offset, data.len() as u64, |bytes| bytes.copy_from_slice(data))
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.on(offset, length, |bytes| bytes.fill(0))
    }
    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        self.write_zeroes(offset, length)
    }
    fn flush(&self) -> io::Result<()> {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        self.on(0, 0, |_| ())
    }
}

struct Client {
    stream: UnixStream,
    server: JoinHandle<Result<Closed, NbdError>>,
}

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const ZEROES: u16 = 6;
const FUA: u16 = 1;

impl Client {
    /// Connects and reads the greeting.
    fn connect(device: Arc<dyn BlockDevice>) -> Self {
        let (stream, other) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let server = std::thread::spawn(move || serve(other, device));
        let mut client = Self { stream, server };
        assert_eq!(client.take(18), b"NBDMAGICIHAVEOPT\x00\x03");
        client
    }

    /// Connects and gets the disk by EXPORT_NAME.
    fn attached(device: Arc<dyn BlockDevice>) -> Self {
        let mut client = Self::connect(device);
        client.send(&3_u32.to_be_bytes());
        client.option(1, b"");
        assert_eq!(client.take(10), [&(SIZE as u64).to_be_bytes()[..], &[0, 0b110_1101]].concat());
        client
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let length = u32::try_from(data.len()).unwrap();
        self.send(&[b"IHAVEOPT", &option.to_be_bytes()[..], &length.to_be_bytes(), data].concat());
    }

    /// The kind and data of an option's reply.
    fn answer(&mut self, option: u32) -> (u32, Vec<u8>) {
        let header = self.take(20);
        assert_eq!(header[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        assert_eq!(header[8..12], option.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let data = self.take(word(16).try_into().unwrap());
        (word(12), data)
    }

    fn request(&mut self, flags: u16, command: u16, offset: u64, length: u32, data: &[u8]) {
        let mut message = 0x2560_9513_u32.to_be_bytes().to_vec();
        message.extend(flags.to_be_bytes());
        message.extend(command.to_be_bytes());
        message.extend(*b"cookie!!");
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(data);
        self.send(&message);
    }

    /// The error number of a reply.
    fn reply(&mut self) -> u32 {
        let header = self.take(16);
        assert_eq!(header[..4], 0x6744_6698_u32.to_be_bytes());
        assert_eq!(header[8..], *b"cookie!!");
        u32::from_be_bytes(header[4..8].try_into().unwrap())
    }

    fn ask(&mut self, flags: u16, command: u16, offset: u64, length: u32, data: &[u8]) -> u32 {
        self.request(flags, command, offset, length, data);
        self.reply()
    }

    fn end(self) -> Result<Closed, NbdError> {
        drop(self.stream);
        self.server.join().expect("the server must not panic")
    }
}

#[test]
fn options_are_answered_and_the_strange_ones_refused() {
    let mut client = Client::connect(Memory::new());
    client.send(&3_u32.to_be_bytes());
    client.option(3, b"");
    assert_eq!(client.answer(3), (2, vec![0; 4]));
    assert_eq!(client.answer(3), (1, vec![]));
    client.option(3, b"junk");
    assert_eq!(client.answer(3).0, 0x8000_0003);
    // STARTTLS, structured replies, meta contexts, and one that does not exist.
    for option in [5, 8, 9, 10, 4711] {
        client.option(option, &[0; 8]);
        assert_eq!(client.answer(option).0, 0x8000_0001);
    }
    client.option(7, &[0, 0, 0, 5, b'o', b't', b'h', b'e', b'r', 0, 0]);
    assert_eq!(client.answer(7).0, 0x8000_0006, "unknown export");
    for bad in [&b""[..], &[0, 0, 0, 200, 0, 0], &[0, 0, 0, 0, 0, 9], &[0xff; 6], &[0; 7]] {
        client.option(7, bad);
        assert_eq!(client.answer(7).0, 0x8000_0003, "{bad:?}");
    }
    client.option(7, &[0; 60_000]);
    assert_eq!(client.answer(7).0, 0x8000_0009, "too big, and still in step");

    let mut sizes = vec![0, 3];
    sizes.extend([1_u32, 4096, 32 << 20].map(u32::to_be_bytes).concat());
    let export = [&[0, 0][..], &(SIZE as u64).to_be_bytes(), &[0, 0b110_1101]].concat();
    for option in [6, 7] {
        client.option(option, &[0, 0, 0, 0, 0, 1, 0, 3]);
        assert_eq!(client.answer(option), (3, export.clone()));
        assert_eq!(client.answer(option), (3, sizes.clone()));
        assert_eq!(client.answer(option), (1, vec![]));
    }
    assert_eq!(client.ask(0, READ, 0, 0, b""), 0, "GO leads to the disk");
    assert_eq!(client.end().unwrap(), Closed::HungUp);
}

#[test]
fn abort_and_disconnect_end_politely() {
    let mut client = Client::connect(Memory::new());
    client.send(&3_u32.to_be_bytes());
    client.option(2, b"");
    assert_eq!(client.answer(2).0, 1);
    assert_eq!(client.end().unwrap(), Closed::Disconnected);

    let mut client = Client::attached(Memory::new());
    client.request(0, DISCONNECT, 0, 0, b"");
    assert_eq!(client.end().unwrap(), Closed::Disconnected);

    assert_eq!(Client::connect(Memory::new()).end().unwrap(), Closed::HungUp);
}

#[test]
fn an_old_client_gets_its_zeroes() {
    let mut client = Client::connect(Memory::new());
    client.send(&1_u32.to_be_bytes());
    client.option(1, b"");
    let export = client.take(134);
    assert!(export[10..].iter().all(|byte| *byte == 0));
    assert_eq!(client.ask(0, FLUSH, 0, 0, b""), 0);
}

#[test]
fn data_goes_both_ways_and_flush_reaches_the_device() {
    let memory = Memory::new();
    let mut client = Client::attached(memory.clone());
    assert_eq!(client.ask(0, WRITE, 1000, 5, b"hello"), 0);
    assert_eq!(memory.flushes.load(Ordering::SeqCst), 0);
    assert_eq!(client.ask(0, READ, 998, 9, b""), 0);
    assert_eq!(client.take(9), b"\0\0hello\0\0");
    assert_eq!(client.ask(0, ZEROES, 1001, 1, b""), 0);
    assert_eq!(client.ask(2, ZEROES, 1002, 1, b""), 0, "NO_HOLE is accepted");
    assert_eq!(client.ask(0, TRIM, 1003, 1, b""), 0);
    assert_eq!(client.ask(0, FLUSH, 0, 0, b""), 0);
    assert_eq!(memory.flushes.load(Ordering::SeqCst), 1);
    for (command, data) in [(WRITE, &b"x"[..]), (ZEROES, b""), (TRIM, b"")] {
        assert_eq!(client.ask(FUA, command, 0, 1, data), 0);
    }
    assert_eq!(memory.flushes.load(Ordering::SeqCst), 4, "forced unit access flushes each time");
    assert_eq!(memory.bytes.lock().unwrap()[1000..1005], *b"h\0\0\0o");
}

#[test]
fn requests_may_be_pipelined() {
    let mut client = Client::attached(Memory::new());
    for i in 0..100_u8 {
        client.request(0, WRITE, u64::from(i), 1, &[i]);
    }
    for _ in 0..100 {
        assert_eq!(client.reply(), 0);
    }
    assert_eq!(client.ask(0, READ, 0, 100, b""), 0);
    assert_eq!(client.take(100), (0..100).collect::<Vec<u8>>());
}

#[test]
fn bad_requests_are_refused_and_the_connection_lives() {
    let mut client = Client::attached(Memory::new());
    let end = SIZE as u64;
    assert_eq!(client.ask(0, READ, end, 1, b""), 22);
    assert_eq!(client.ask(0, READ, u64::MAX, 2, b""), 22);
    assert_eq!(client.ask(0, READ, 0, u32::MAX, b""), 75);
    assert_eq!(client.ask(0, WRITE, end - 1, 2, b"ab"), 28);
    assert_eq!(client.ask(0, ZEROES, 1, u32::MAX, b""), 28);
    assert_eq!(client.ask(0, TRIM, u64::MAX, u32::MAX, b""), 22);
    assert_eq!(client.ask(0, 99, 0, 0, b""), 22, "unknown command");
    assert_eq!(client.ask(0, 5, 0, 4096, b""), 22, "cache was not offered");
    assert_eq!(client.ask(0x80, READ, 0, 1, b""), 22, "unknown flag");
    assert_eq!(client.ask(0x80, WRITE, 0, 1, b"x"), 22, "its data is taken off the stream");
    assert_eq!(client.ask(0, READ, end - 1, 1, b""), 0);
    client.take(1);
    assert_eq!(client.end().unwrap(), Closed::HungUp);
}

#[test]
fn device_errors_reach_the_client() {
    for (kind, number) in
        [(io::ErrorKind::StorageFull, 28), (io::ErrorKind::Other, 5), (io::ErrorKind::PermissionDenied, 5)]
    {
        let memory = Memory { error: Some(kind), ..Memory::default() };
        let mut client = Client::attached(Arc::new(memory));
        for _ in 0..5 {
            assert_eq!(client.ask(0, WRITE, 0, 1, b"x"), number);
        }
        assert_eq!(client.ask(0, READ, 0, 100, b""), number, "an error carries no data");
        assert_eq!(client.ask(0, FLUSH, 0, 0, b""), number);
    }
}

#[test]
fn clients_that_make_no_sense_are_cut_off() {
    let hopeless: [&[u8]; 6] = [
        b"\x00\x00\x00\x00",                           // not the fixed newstyle
        b"\x00\x00\x00\xff",                           // unknown flags
        b"\x00\x00\x00\x03NONSENSE\0\0\0\x01\0\0\0\0", // wrong magic
        b"\x00\x00\x00\x03IHAVEOPT\0\0\0\x01\0\0\0\x05other",
        b"\x00\x00\x00\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
        b"\x00\x00\x00\x03IHAVEOPT\0\0\0\x01\0\0\0\0not a request, that is for sure",
    ];
    for bytes in hopeless {
        let mut client = Client::connect(Memory::new());
        client.send(bytes);
        // Not closed yet: the server may still want to answer.
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(matches!(client.server.join().unwrap(), Err(NbdError::Protocol(_))), "{bytes:?}");
    }

    let mut client = Client::attached(Memory::new());
    client.request(0, WRITE, 0, u32::MAX, b"");
    assert!(matches!(client.end(), Err(NbdError::Protocol(_))));

    let mut client = Client::attached(Memory::new());
    client.request(0, WRITE, 0, 1000, b"only this");
    assert!(matches!(client.end(), Err(NbdError::Io(_))), "cut off in the middle of a write");

    let mut client = Client::connect(Memory::new());
    client.send(&3_u32.to_be_bytes());
    for _ in 0..64 {
        client.option(4711, b"");
        client.answer(4711);
    }
    assert!(matches!(client.end(), Err(NbdError::Protocol(_))), "an endless handshake");
}

#[test]
fn a_killed_client_with_unread_replies_is_a_hang_up() {
    let mut client = Client::attached(Memory::new());
    for _ in 0..20 {
        client.request(0, READ, 0, 100_000, b"");
    }
    assert_eq!(client.end().unwrap(), Closed::HungUp);
}

/// Bytes that look like the protocol often enough to get far.
fn fuzz() -> impl Strategy<Value = Vec<u8>> {
    let request = (0..4_u16, 0..9_u16, 0..SIZE as u64 * 2, prop_oneof![0..70_000_u32, any::<u32>()])
        .prop_map(|(flags, command, offset, length)| {
            let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
            bytes.extend(flags.to_be_bytes());
            bytes.extend(command.to_be_bytes());
            bytes.extend([0; 8]);
            bytes.extend(offset.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes
        });
    let option = (0..12_u32, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(option, data)| {
        let length = u32::try_from(data.len()).unwrap();
        [b"IHAVEOPT", &option.to_be_bytes()[..], &length.to_be_bytes(), &data].concat()
    });
    let piece = prop_oneof![
        3 => request,
        2 => option,
        1 => Just(b"IHAVEOPT\0\0\0\x01\0\0\0\0".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..50),
    ];
    (0..4_u32, prop::collection::vec(piece, 0..20))
        .prop_map(|(flags, pieces)| [flags.to_be_bytes().to_vec(), pieces.concat()].concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic_or_hang(bytes in fuzz()) {
        let client = Client::connect(Memory::new());
        let mut reader = client.stream.try_clone().unwrap();
        let drain = std::thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        let mut stream = client.stream.try_clone().unwrap();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = client.server.join().expect("the server must not panic");
        let _ = drain.join();
    }
}
