//! Who listens on a port of this machine.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use model::GuestPort;

use crate::table::{Listener, search};

const TCP: &str = "/proc/net/tcp";
const TCP6: &str = "/proc/net/tcp6";

/// Where somebody who listens on that port of this machine, in this network namespace, can be reached from inside:
/// 127.0.0.1 before other addresses of IPv4 before those of IPv6. `None` when nobody does whom loopback reaches.
///
/// Asking first, instead of trying one address after the other, also finds who listens on the others of 127.0.0.0/8, and
/// never connects a port to itself, which TCP allows for ports that the kernel gives out.
///
/// # Errors
/// When the kernel's tables cannot be read.
pub fn listener(port: GuestPort) -> io::Result<Option<SocketAddr>> {
    let mut best = in_table(TCP, port)?;
    if !best.is_some_and(|best| best.is_best()) {
        let six = match in_table(TCP6, port) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => found?,
        };
        best = best.into_iter().chain(six).min();
    }
    Ok(best.map(|best| best.address()))
}

fn in_table(path: &str, port: GuestPort) -> io::Result<Option<Listener>> {
    let told = |error: io::Error| io::Error::new(error.kind(), format!("reading {path}: {error}"));
    search(&mut File::open(path).map_err(told)?, port).map_err(told)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        for (address, dialed) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("127.0.0.2:0", "127.0.0.2"),
            ("127.0.1.1:0", "127.0.1.1"),
            ("0.0.0.0:0", "127.0.0.1"),
            ("[::1]:0", "::1"),
            ("[::]:0", "::1"),
            ("[::ffff:127.0.0.1]:0", "127.0.0.1"),
        ] {
            let server = TcpListener::bind(address).unwrap();
            let number = server.local_addr().unwrap().port();
            let port = GuestPort::new(number).unwrap();
            let expected = SocketAddr::new(dialed.parse().unwrap(), number);
            assert_eq!(listener(port).unwrap(), Some(expected), "{address}");
            drop(server);
            assert_eq!(listener(port).unwrap(), None, "{address}");
        }
    }
}
