//! The kernel's tables of TCP sockets, searched for who listens on a port.
//!
//! The first two bytes of the input are the port, the third how many bytes are read at a time.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use loopback::{Listener, search};
use model::GuestPort;

fuzz_target!(|input: &[u8]| {
    let [high, low, size, table @ ..] = input else { return };
    let Some(port) = GuestPort::new(u16::from_be_bytes([*high, *low])) else { return };
    let found = found(table, usize::MAX, port);
    assert_eq!(found, self::found(table, usize::from(*size).max(1), port));
    if let Ok(Some(listener)) = found {
        let address = listener.address();
        assert!(address.ip().is_loopback() && address.port() == port.get());
        let digits = format!(":{:04X}", port.get());
        assert!(table.to_ascii_uppercase().windows(digits.len()).any(|window| window == digits.as_bytes()));
    }
});

fn found(table: &[u8], size: usize, port: GuestPort) -> Result<Option<Listener>, io::ErrorKind> {
    search(&mut Pieces(table, size), port).map_err(|error| error.kind())
}

/// Gives at most so many bytes at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.1);
        self.0.read(&mut buffer[..room])
    }
}
