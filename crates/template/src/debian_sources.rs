//! Which of the machine's package sources are Debian's own for one release (sources.list(5), both formats).

use std::fs;
use std::path::{Path, PathBuf};

const DIR: &str = "/etc/apt";
/// Larger files are nobody's list of sources.
const MAX_FILE: u64 = 1 << 20;

/// One line of sources.list for each source of `suite` that has Debian's `main`. Empty when the machine has another
/// release or another distribution.
pub(crate) fn of_this_machine(suite: &str) -> Vec<String> {
    let mut files = vec![Path::new(DIR).join("sources.list")];
    let mut more: Vec<PathBuf> = fs::read_dir(Path::new(DIR).join("sources.list.d"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    more.sort();
    files.extend(more);
    let mut found = Vec::new();
    for file in files {
        let text = match fs::metadata(&file) {
            Ok(meta) if meta.len() <= MAX_FILE => fs::read_to_string(&file).unwrap_or_default(),
            _ => continue,
        };
        let lines = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line(&text, suite),
            Some("sources") => paragraphs(&text, suite),
            _ => continue,
        };
        found.extend(lines);
    }
    found
}

/// The releases that are part of `suite`. Others with the name in theirs are third parties'.
fn belongs(candidate: &str, suite: &str) -> bool {
    candidate
        .trim_end_matches('/')
        .strip_prefix(suite)
        .is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"))
}

/// `deb [options] URI suite component…`
fn one_line(text: &str, suite: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else {
            continue;
        };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest),
            None => ("", rest),
        };
        let mut words = rest.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let (Some(uri), Some(candidate)) = (words.next(), words.next()) else { continue };
        let components: Vec<&str> = words.collect();
        found.extend(source(options.trim(), uri, candidate, &components, suite));
    }
    found
}

/// Paragraphs of fields (deb822).
fn paragraphs(text: &str, suite: &str) -> Vec<String> {
    let mut found = Vec::new();
    for paragraph in text.split("\n\n") {
        let fields = fields(paragraph);
        let words = |name: &str| {
            let value = fields
                .iter()
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.as_str());
            value.unwrap_or_default().split_ascii_whitespace().collect::<Vec<_>>()
        };
        let enabled = !words("Enabled").first().is_some_and(|value| value.eq_ignore_ascii_case("no"));
        // A key written out in the file cannot be said in one line; the default keyring has Debian's keys.
        let key = words("Signed-By")
            .first()
            .filter(|path| path.starts_with('/'))
            .map(|path| format!("signed-by={path}"));
        if !enabled || !words("Types").contains(&"deb") {
            continue;
        }
        for uri in words("URIs") {
            for candidate in words("Suites") {
                found.extend(source(
                    key.as_deref().unwrap_or(""),
                    uri,
                    candidate,
                    &words("Components"),
                    suite,
                ));
            }
        }
    }
    found
}

/// Fields with their continuation lines joined; comments left out.
fn fields(paragraph: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in paragraph.lines().filter(|line| !line.starts_with('#')) {
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    fields
}

fn source(options: &str, uri: &str, candidate: &str, components: &[&str], suite: &str) -> Option<String> {
    if !belongs(candidate, suite) || !components.contains(&"main") {
        return None;
    }
    let options = if options.is_empty() { String::new() } else { format!("[{options}] ") };
    Some(format!("deb {options}{uri} {candidate} main"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let one = one_line(
            "# a comment\ndeb-src http://mirror.test/debian bookworm main\n\
             deb [ signed-by=/k.gpg ] http://mirror.test/debian bookworm main contrib # why\n\
             deb [signed-by=/k.gpg] http://mirror.test/debian bookworm-updates main\n",
            "bookworm",
        );
        let two = paragraphs(
            "Types: deb deb-src\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm\n bookworm-updates\n\
             Components: main contrib\nSigned-By: /k.gpg\n",
            "bookworm",
        );
        assert_eq!(one, two);
        assert_eq!(one[0], "deb [signed-by=/k.gpg] http://mirror.test/debian bookworm main");
    }

    #[test]
    fn other_releases_and_other_peoples_packages_are_left_out() {
        for other in [
            "deb http://mirror.test/debian trixie main",
            "deb http://mirror.test/debian bookworm-backports main",
            "deb http://database.test/apt bookworm-vendor main",
            "deb http://containers.test/linux bookworm stable",
            "deb http://broken.test",
            "debian http://mirror.test/debian bookworm main",
        ] {
            assert!(one_line(other, "bookworm").is_empty(), "{other}");
        }
        let disabled = "Enabled: no\nTypes: deb\nURIs: http://m.test\nSuites: bookworm\nComponents: main\n";
        assert!(paragraphs(disabled, "bookworm").is_empty());
    }
}
