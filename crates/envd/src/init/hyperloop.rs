//! Where the sandbox reaches its host's own services.

use std::net::IpAddr;

/// The name that programs know.
const NAME: &str = "events.e2b.local";

/// What the variable says that tells programs.
pub(super) fn address(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => format!("http://{ip}"),
        IpAddr::V6(ip) => format!("http://[{ip}]"),
    }
}

/// A hosts file in which the name leads there and nowhere else. All other lines, and other names in the same line, stay
/// as they are.
pub(super) fn with_name(before: &[u8], ip: IpAddr) -> Vec<u8> {
    let own = format!("{ip} {NAME}\n");
    let mut after = Vec::with_capacity(before.len() + own.len());
    let mut is_there = false;
    for line in before.split_inclusive(|byte| *byte == b'\n') {
        let Some(others) = without_name(line) else {
            after.extend_from_slice(line);
            continue;
        };
        after.extend_from_slice(&others);
        if others.is_empty() && !is_there {
            after.extend_from_slice(own.as_bytes());
            is_there = true;
        }
    }
    if !is_there {
        if !after.is_empty() && !after.ends_with(b"\n") {
            after.push(b'\n');
        }
        after.extend_from_slice(own.as_bytes());
    }
    after
}

/// The line without our name; nothing of it when there is no other name in it. None when our name is not in it.
fn without_name(line: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(line).ok()?;
    let (entry, comment) =
        text.split_once('#').map_or((text, None), |(entry, comment)| (entry, Some(comment)));
    let mut words = entry.split_ascii_whitespace();
    let ip = words.next()?;
    let names: Vec<&str> = words.collect();
    let others: Vec<&str> = names.iter().filter(|name| !name.eq_ignore_ascii_case(NAME)).copied().collect();
    if others.len() == names.len() {
        return None;
    }
    if others.is_empty() {
        return Some(Vec::new());
    }
    let comment = comment.map(|comment| format!(" #{}", comment.trim_end())).unwrap_or_default();
    Some(format!("{ip} {}{comment}\n", others.join(" ")).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(before: &str, ip: &str) -> String {
        String::from_utf8(with_name(before.as_bytes(), ip.parse().unwrap())).unwrap()
    }

    #[test]
    fn the_name_leads_to_one_address() {
        let first = with("127.0.0.1 localhost\n10.0.0.1 db", "192.0.2.1");
        assert_eq!(first, "127.0.0.1 localhost\n10.0.0.1 db\n192.0.2.1 events.e2b.local\n");
        assert_eq!(with(&first, "192.0.2.1"), first);
        assert_eq!(with(&first, "192.0.2.7"), first.replace("192.0.2.1", "192.0.2.7"));
        assert_eq!(with(&first, "fd00::1"), first.replace("192.0.2.1", "fd00::1"));
        assert_eq!(with("", "fd00::1"), "fd00::1 events.e2b.local\n");
    }

    #[test]
    fn other_names_and_words_stay() {
        let before = "10.0.0.1 a Events.E2B.local b # both\n# events.e2b.local\n::1 events.e2b.local\n1.1.1.1 events.e2b.local\n";
        let after = "10.0.0.1 a b # both\n# events.e2b.local\n192.0.2.1 events.e2b.local\n";
        assert_eq!(with(before, "192.0.2.1"), after);
        assert_eq!(with(after, "192.0.2.1"), after);
        let odd = with_name(b"\xff events.e2b.local\n", "192.0.2.1".parse().unwrap());
        assert!(odd.starts_with(b"\xff events"));
    }

    #[test]
    fn addresses_as_programs_read_them() {
        assert_eq!(address("192.0.2.1".parse().unwrap()), "http://192.0.2.1");
        assert_eq!(address("fd00::1".parse().unwrap()), "http://[fd00::1]");
    }
}
