//! `/etc/hosts`: `localhost` and this machine's name resolve without a network.

use std::fs;
use std::io;

use crate::console::say;

const PATH: &str = "/etc/hosts";
/// Marks the line that is ours to replace: a disk made under another name may come with an older one.
const MARK: &str = "# coldframe";

/// Makes both names known. `sudo` and Java wait for a name server otherwise. An image without `/etc` can do without.
pub(crate) fn name_this_machine(hostname: &str) {
    let before = match fs::read_to_string(PATH) {
        Ok(text) => text,
        Err(why) if why.kind() == io::ErrorKind::NotFound => String::new(),
        Err(why) => return say(format_args!("cannot read {PATH}: {why}")),
    };
    let after = with_names(&before, hostname);
    if after != before
        && let Err(why) = fs::write(PATH, after)
    {
        say(format_args!("cannot write {PATH}: {why}"));
    }
}

fn with_names(before: &str, hostname: &str) -> String {
    let ours = format!("127.0.1.1 {hostname} {MARK}");
    let mut lines: Vec<&str> = before.lines().filter(|line| !line.trim_end().ends_with(MARK)).collect();
    let localhost = "127.0.0.1 localhost";
    if !lines.iter().any(|line| names(line).any(|name| name == "localhost")) {
        lines.insert(0, localhost);
    }
    lines.push(&ours);
    lines.join("\n") + "\n"
}

fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split('#').next().unwrap_or_default().split_ascii_whitespace().skip(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_gets_both_names() {
        assert_eq!(with_names("", "i1"), "127.0.0.1 localhost\n127.0.1.1 i1 # coldframe\n");
    }

    #[test]
    fn what_the_image_says_stays_and_our_old_line_goes() {
        let first = with_names("::1 localhost ip6-localhost\n10.0.0.1 db\n", "i1");
        assert_eq!(first, "::1 localhost ip6-localhost\n10.0.0.1 db\n127.0.1.1 i1 # coldframe\n");
        assert_eq!(with_names(&first, "i1"), first);
        assert_eq!(with_names(&first, "i2"), first.replace("i1", "i2"));
    }

    #[test]
    fn a_comment_names_nobody() {
        assert!(with_names("# 127.0.0.1 localhost\n", "i1").starts_with("127.0.0.1 localhost\n"));
    }
}
