//! `/etc/resolv.conf`: whom to ask for names.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;

use crate::console::say;

const PATH: &str = "/etc/resolv.conf";
/// First line of a file that is ours, and so ours to replace at a later boot.
const MARK: &str = "# written by coldframe";

/// Writes the file unless the image has one that says something. Images made from containers have an empty one, and
/// those made for systemd a link to a file that only a running resolver makes.
pub(crate) fn configure(servers: &[Ipv4Addr]) {
    let before = fs::read_to_string(PATH).unwrap_or_default();
    if servers.is_empty() || belongs_to_the_image(&before) {
        return;
    }
    let mut text = format!("{MARK}\n");
    for server in servers {
        // Writing to a String does not fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    if text != before
        && let Err(why) = replace(&text)
    {
        say(format_args!("cannot write {PATH}: {why}"));
    }
}

fn belongs_to_the_image(text: &str) -> bool {
    !text.starts_with(MARK)
        && text.lines().map(str::trim).any(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

fn replace(text: &str) -> io::Result<()> {
    // Writing through a dangling link would need the directory that it points into.
    if fs::symlink_metadata(PATH).is_ok_and(|found| found.is_symlink()) {
        fs::remove_file(PATH)?;
    }
    fs::write(PATH, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_says_something_is_left_alone() {
        assert!(belongs_to_the_image("# by hand\nnameserver 9.9.9.9\n"));
        assert!(!belongs_to_the_image(""));
        assert!(!belongs_to_the_image("# nothing here\n; nor here\n\n"));
        assert!(!belongs_to_the_image("# written by coldframe\nnameserver 1.1.1.1\n"));
    }
}
