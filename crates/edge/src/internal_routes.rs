//! Routes of the guest daemon that are the host's alone: whoever reaches them owns the sandbox's state.

/// First segments of these routes.
const INTERNAL: [&str; 9] =
    ["init", "freeze", "unfreeze", "collapse", "fsfreeze", "fsthaw", "upgrade", "snapshot", "sync"];

/// How often a path is percent-decoded. The daemon decodes once; the rest is for what may stand between.
const MAX_DECODES: usize = 3;

/// Whether a path of the guest daemon must not be forwarded. Wider than what the daemon's router would match: letter
/// case, repeated slashes, dot segments, parameters and nested percent-encodings do not hide a route, and everything
/// below an internal route is internal too.
pub(crate) fn is_internal(path: &str) -> bool {
    let mut current = path.as_bytes().to_vec();
    for _ in 0..MAX_DECODES {
        if names_internal(&current) {
            return true;
        }
        let decoded = percent_decode(&current);
        if decoded == current {
            return false;
        }
        current = decoded;
    }
    names_internal(&current)
}

/// Looks at a path both as it is and with its dot segments resolved.
fn names_internal(path: &[u8]) -> bool {
    let mut resolved: Vec<&[u8]> = Vec::new();
    let mut first = true;
    for segment in path.split(|&b| b == b'/' || b == b'\\').map(trim_segment) {
        match segment {
            b"" | b"." => {}
            b".." => {
                resolved.pop();
            }
            segment => {
                if std::mem::take(&mut first) && matches(segment) {
                    return true;
                }
                resolved.push(segment);
            }
        }
    }
    resolved.first().is_some_and(|segment| matches(segment))
}

/// A segment without `;parameters` and without the white space and control bytes that a lenient parser drops.
fn trim_segment(segment: &[u8]) -> &[u8] {
    let end = segment.iter().position(|&b| matches!(b, b';' | 0)).unwrap_or(segment.len());
    let segment = &segment[..end];
    let blank = |b: &u8| b.is_ascii_whitespace() || b.is_ascii_control();
    let start = segment.iter().position(|b| !blank(b)).unwrap_or(segment.len());
    let end = segment.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &segment[start..end]
}

fn matches(segment: &[u8]) -> bool {
    INTERNAL.iter().any(|name| segment.eq_ignore_ascii_case(name.as_bytes()))
}

/// Decodes `%xx`; what is not a valid escape stays as it is.
pub(crate) fn percent_decode(text: &[u8]) -> Vec<u8> {
    let digit =
        |at: usize| text.get(at).and_then(|&b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_routes_are_found_however_they_are_written() {
        for path in [
            "/init",
            "/init/",
            "//init",
            "/./init",
            "/x/../init",
            "/%69nit",
            "/%2569nit",
            "/INIT",
            "/init;v=1",
            "/init%3bx",
            "/freeze",
            "/unfreeze",
            "/collapse",
            "/fsfreeze",
            "/fsthaw",
            "/upgrade",
            "/snapshot",
            "/snapshot/prepare",
            "/sync",
            "/SYNC/",
            "/init/x",
            "/%2finit",
            "\\init",
            "/init%20",
            "/init%00",
            "init",
            "/..//../init",
            "/init/../files",
            "/%2e%2e/init",
            "/x/%2e%2e/init",
        ] {
            assert!(is_internal(path), "{path}");
        }
    }

    #[test]
    fn the_others_pass() {
        for path in [
            "/",
            "",
            "/health",
            "/files",
            "/files/compose",
            "/process.Process/Start",
            "/metrics",
            "/envs",
            "/initial",
            "/files/init",
            "/filesystem.Filesystem/Stat",
            "/snap",
            "/synchronise",
            "/files/sync",
            "*",
            "/%zz",
            "/%",
        ] {
            assert!(!is_internal(path), "{path}");
        }
    }
}
