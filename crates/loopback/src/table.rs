//! The kernel's tables of TCP sockets, `/proc/net/tcp` and `/proc/net/tcp6`.
//!
//! A table has a heading and one line per socket:
//!
//! ```text
//!   sl  local_address rem_address   st tx_queue rx_queue …
//!    0: 0100007F:0CEA 00000000:0000 0A 00000000:00000000 …
//! ```
//! Addresses are 32-bit words, one or four of them, in hexadecimal and the machine's byte order. The kernel promises
//! (Documentation/networking/proc_net_tcp.rst) to list all listening sockets before all others, so a search ends at the
//! first that does not listen, however many connections there are.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use model::GuestPort;

/// Most bytes of one table that are looked at: some seven thousand listening sockets, which take a few milliseconds.
/// Who has more of them may not be found.
pub const MAX_TABLE: usize = 1 << 20;
/// The kernel gives a page at a time, and a line has at most some 200 bytes.
const BUFFER: usize = 8 << 10;
/// `TCP_LISTEN`.
const LISTENING: &[u8] = b"0A";
const WORD_DIGITS: usize = 8;

/// Somebody who listens, and how to reach him from inside the machine. The better one is the smaller one: 127.0.0.1
/// first, then other loopback addresses of IPv4, then those who listen everywhere, then IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    rank: Rank,
    address: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Localhost,
    Loopback4,
    Any4,
    Loopback6,
    Any6,
}

impl Listener {
    /// Who listens on that address, if it can be reached over loopback.
    fn on(address: IpAddr, port: GuestPort) -> Option<Self> {
        let (rank, address) = match address.to_canonical() {
            IpAddr::V4(Ipv4Addr::LOCALHOST) => (Rank::Localhost, address.to_canonical()),
            IpAddr::V4(loopback) if loopback.is_loopback() => (Rank::Loopback4, loopback.into()),
            // Somebody who just came, or who wants no connections of IPv4: the address that is known outside refused us.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (Rank::Any4, Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => (Rank::Loopback6, Ipv6Addr::LOCALHOST.into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (Rank::Any6, Ipv6Addr::LOCALHOST.into()),
            _ => return None,
        };
        Some(Self { rank, address: SocketAddr::new(address, port.get()) })
    }

    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether nobody else would be preferred.
    #[must_use]
    pub fn is_best(&self) -> bool {
        self.rank == Rank::Localhost
    }
}

/// Finds the best listener of a port in one table. Lines that make no sense are passed over, one that never ends is an
/// error.
///
/// # Errors
/// Those of reading; [`io::ErrorKind::InvalidData`] for what is not such a table.
pub fn search(table: &mut impl Read, port: GuestPort) -> io::Result<Option<Listener>> {
    let mut best = None;
    let mut buffer = [0; BUFFER];
    let (mut kept, mut seen) = (0, 0);
    loop {
        let read = match table.read(&mut buffer[kept..]) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // What comes after the last line feed was cut off.
        if read == 0 {
            return Ok(best);
        }
        seen += read;
        let end = kept + read;
        let whole = buffer[..end].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        for entry in buffer[..whole].split(|&byte| byte == b'\n').filter_map(Entry::parse) {
            if !entry.listens {
                return Ok(best);
            }
            if entry.port == port.get()
                && let Some(found) = Listener::on(entry.address, port)
            {
                best = Some(best.map_or(found, |best: Listener| best.min(found)));
            }
        }
        if best.is_some_and(|best| best.is_best()) || seen >= MAX_TABLE {
            return Ok(best);
        }
        buffer.copy_within(whole..end, 0);
        kept = end - whole;
        if kept == buffer.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a line of more than {BUFFER} bytes"),
            ));
        }
    }
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    address: IpAddr,
    port: u16,
    listens: bool,
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
        fields.next()?.strip_suffix(b":")?;
        let local = fields.next()?;
        let _remote = fields.next()?;
        let state = fields.next()?;
        let (address, port) = local.split_at_checked(local.iter().position(|&byte| byte == b':')?)?;
        Some(Self {
            address: parse_address(address)?,
            port: u16::try_from(parse_hex(port.get(1..)?, 4)?).ok()?,
            listens: state == LISTENING,
        })
    }
}

fn parse_address(digits: &[u8]) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    let (words, rest) = digits.as_chunks::<WORD_DIGITS>();
    if !rest.is_empty() || words.len() * 4 > bytes.len() {
        return None;
    }
    for (word, bytes) in words.iter().zip(bytes.chunks_exact_mut(4)) {
        bytes.copy_from_slice(&parse_hex(word, WORD_DIGITS)?.to_ne_bytes());
    }
    match (words.len(), bytes) {
        (1, [a, b, c, d, ..]) => Some(Ipv4Addr::new(a, b, c, d).into()),
        (4, bytes) => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

/// A number of so many digits, eight at most.
fn parse_hex(digits: &[u8], length: usize) -> Option<u32> {
    if digits.len() != length {
        return None;
    }
    digits.iter().try_fold(0, |value: u32, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As Linux 6.1 writes them.
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n   0: 00000000:07E8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1077 1 00000000f9ac7ae3 100 0 0 10 0                  \n   1: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24021858 1 000000000df77639 100 0 0 10 0                  \n   2: 0101007F:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24021859 1 000000000df77639 100 0 0 10 0                  \n   3: 0200007F:0BB9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24021859 1 000000000df77639 100 0 0 10 0                  \n   4: 1500FEA9:0BBA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24021860 1 000000000df77639 100 0 0 10 0                  \n   5: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 3 1 00000000b1c47dd8 100 0 0 10 0                  \n";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   0: 00000000000000000000000001000000:0BBB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24077 1 000000006e9e3f7d 100 0 0 10 0\n   1: 0000000000000000FFFF00000100007F:0BBC 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24078 1 000000006e9e3f7d 100 0 0 10 0\n   2: 00000000000000000000000000000000:0BBD 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24079 1 000000006e9e3f7d 100 0 0 10 0\n   3: 000080FE00000000FF005450B6AD1DFE:0BBE 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 24079 1 000000006e9e3f7d 100 0 0 10 0\n";

    fn port(number: u16) -> GuestPort {
        GuestPort::new(number).unwrap()
    }

    fn find(table: &str, number: u16) -> Option<String> {
        search(&mut table.as_bytes(), port(number)).unwrap().map(|found| found.address().to_string())
    }

    #[test]
    fn who_listens_is_found_where_he_can_be_reached() {
        for (table, number, expected) in [
            (TCP, 3000, Some("127.0.0.1:3000")),
            (TCP, 3001, Some("127.0.0.2:3001")),
            (TCP, 0x7e8, Some("127.0.0.1:2024")),
            // On the address that is dialed anyway, connected, or not there.
            (TCP, 3002, None),
            (TCP, 8080, None),
            (TCP, 3003, None),
            (TCP6, 3003, Some("[::1]:3003")),
            (TCP6, 3004, Some("127.0.0.1:3004")),
            (TCP6, 3005, Some("[::1]:3005")),
            (TCP6, 3006, None),
            ("", 3000, None),
        ] {
            assert_eq!(find(table, number).as_deref(), expected, "{number}");
        }
    }

    #[test]
    fn the_better_one_is_taken_whatever_the_order() {
        let line = |address: &str| format!("   0: {address}:0050 00000000:0000 0A 0:0 \n");
        let by_rank = [
            ("0100007F", "127.0.0.1:80"),
            ("0200007F", "127.0.0.2:80"),
            ("0300007F", "127.0.0.3:80"),
            ("00000000", "127.0.0.1:80"),
            ("00000000000000000000000001000000", "[::1]:80"),
            ("00000000000000000000000000000000", "[::1]:80"),
        ];
        for (rank, (better, expected)) in by_rank.iter().enumerate() {
            for (worse, _) in &by_rank[rank..] {
                assert_eq!(find(&(line(better) + &line(worse)), 80).as_deref(), Some(*expected));
                assert_eq!(find(&(line(worse) + &line(better)), 80).as_deref(), Some(*expected));
            }
        }
    }

    #[test]
    fn a_table_may_be_cut_off_anywhere() {
        let needed = TCP.match_indices('\n').nth(2).unwrap().0 + 1;
        for end in 0..=TCP.len() {
            assert_eq!(find(&TCP[..end], 3000).is_some(), end >= needed, "{end}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let good = "   1: 0100007F:0BB8 00000000:0000 0A \n";
        for bad in [
            "\n",
            "   1:\n",
            "   1: 0100007F:0BB8\n",
            "   1: 0100007F:0BB8 00000000:0000\n",
            "   1 0100007F:0BB9 00000000:0000 01\n",
            "   1: 0100007F 00000000:0000 01\n",
            "   1: :0BB8 00000000:0000 01\n",
            "   1: 0100007:0BB8 00000000:0000 01\n",
            "   1: 0100007F0100007F:0BB8 00000000:0000 01\n",
            "   1: 00000000000000000000000000000000000000000100007F:0BB8 00000000:0000 01\n",
            "   1: 0100007F:00BB8 00000000:0000 01\n",
            "   1: 0100007F:+BB8 00000000:0000 01\n",
            "   1: 0100007F: 00000000:0000 01\n",
            "   1: 0100007\u{fc}:0BB8 00000000:0000 01\n",
        ] {
            assert_eq!(find(&format!("{bad}{good}"), 3000).as_deref(), Some("127.0.0.1:3000"), "{bad}");
        }
    }

    #[test]
    fn a_search_ends() {
        let error = search(&mut io::repeat(b'x'), port(80)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(search(&mut io::repeat(b'\n'), port(80)).unwrap(), None);
        let many = "   0: 00000000:0051 00000000:0000 0A \n".repeat(40_000);
        assert_eq!(find(&(many + "   0: 0100007F:0050 00000000:0000 0A \n"), 80), None);
        // Nothing behind the first that does not listen is looked at.
        let mut endless = "   0: 0100007F:0051 0100007F:0000 06 \n".as_bytes().chain(io::repeat(b'x'));
        assert_eq!(search(&mut endless, port(80)).unwrap(), None);
    }

    /// Gives at most so many bytes at a time.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let room = buffer.len().min(self.1);
            self.0.read(&mut buffer[..room])
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(size in 1..500_usize, end in 0..TCP.len(), number in 3000..3004_u16) {
            let table = &TCP[..end];
            let found = search(&mut Pieces(table.as_bytes(), size), port(number)).unwrap();
            prop_assert_eq!(found.map(|found| found.address().to_string()), find(table, number));
        }

        #[test]
        fn any_address_that_the_kernel_may_write_is_read(bytes: [u8; 16], number: u16, listens: bool) {
            let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            let state = if listens { "0A" } else { "01" };
            let line = format!("   0: {:08X}:{number:04X} 00000000:0000 {state} 0:0 0", word(0));
            let four = Ipv4Addr::from([bytes[0], bytes[1], bytes[2], bytes[3]]);
            prop_assert_eq!(Entry::parse(line.as_bytes()), Some(Entry { address: four.into(), port: number, listens }));
            let all = format!("{:08X}{:08X}{:08X}{:08X}", word(0), word(4), word(8), word(12));
            let line = format!("9999: {all}:{number:04X} {all}:0000 {state} 0:0 0");
            let six = IpAddr::V6(bytes.into());
            prop_assert_eq!(Entry::parse(line.as_bytes()), Some(Entry { address: six, port: number, listens }));
        }

        #[test]
        fn garbage_is_harmless(table: Vec<u8>, size in 1..100_usize) {
            let _ = search(&mut Pieces(&table, size), port(80));
        }
    }
}
