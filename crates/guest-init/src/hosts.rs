//! `/etc/hosts`: `localhost` and this machine's name resolve without a network.

use std::io;

use guest_init::machine_name::{self, HOSTS};

use crate::console::say;

/// Makes both names known. An image without `/etc` can do without.
pub(crate) fn name_this_machine(hostname: &str) {
    if let Err(why) = write(hostname) {
        say(format_args!("cannot make names known in {HOSTS}: {why}"));
    }
}

fn write(hostname: &str) -> io::Result<()> {
    machine_name::edit(HOSTS, with_localhost)?;
    machine_name::make_resolvable(HOSTS, hostname)
}

fn with_localhost(before: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(before);
    if text.lines().any(|line| names(line).any(|name| name == "localhost")) {
        return before.to_vec();
    }
    [b"127.0.0.1 localhost\n", before].concat()
}

fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split('#').next().unwrap_or_default().split_ascii_whitespace().skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_is_added_when_nothing_has_that_name() {
        for (before, added) in [
            ("", true),
            ("# 127.0.0.1 localhost\n", true),
            ("10.0.0.1 localhost.example\n", true),
            ("::1 localhost ip6-localhost\n", false),
        ] {
            let after = String::from_utf8(with_localhost(before.as_bytes())).unwrap();
            let expected = if added { format!("127.0.0.1 localhost\n{before}") } else { before.to_owned() };
            assert_eq!(after, expected);
        }
    }
}
