//! Names of images.

/// `REGISTRY/NAME`, with `:TAG` or `@DIGEST` behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// A host, with a port or without.
    pub(crate) registry: String,
    /// What it calls the image.
    pub(crate) name: String,
    /// Which one of that name: a tag or a digest.
    pub(crate) which: String,
}

/// No name is longer.
const MAX_BYTES: usize = 512;
/// What is meant when nothing is said.
const LATEST: &str = "latest";

impl Reference {
    /// Reads a name. Which registry is meant has to be said: there is none that everybody means.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > MAX_BYTES {
            return Err("it is too long");
        }
        let (registry, rest) =
            text.split_once('/').ok_or("it begins with a registry: REGISTRY/NAME[:TAG]")?;
        // Otherwise it is the first part of a name.
        if !(registry.contains(['.', ':']) || registry == "localhost") {
            return Err("what is before the first / is no registry: REGISTRY/NAME[:TAG]");
        }
        let host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        if registry.is_empty() || !registry.chars().all(host) {
            return Err("what is before the first / is no host");
        }
        let (name, which) = match rest.split_once('@') {
            Some((name, digest)) if is_digest(digest) => (name, digest),
            Some(_) => return Err("what is behind the @ is no digest: sha256: and 64 digits"),
            None => rest.split_once(':').unwrap_or((rest, LATEST)),
        };
        let part = |part: &str| {
            let inside =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
            part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && part.chars().all(inside)
        };
        if !name.split('/').all(part) {
            return Err("a name has lower-case letters, digits, and . _ - between them");
        }
        let tag = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !is_digest(which) && (which.is_empty() || which.starts_with(['.', '-']) || !which.chars().all(tag))
        {
            return Err("a tag has letters, digits, and . _ -");
        }
        Ok(Self { registry: registry.into(), name: name.into(), which: which.into() })
    }

    /// Whether its registry is on this host, where nobody listens in.
    pub(crate) fn is_here(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(self.registry.as_str(), |(host, _)| host);
        matches!(host, "localhost" | "127.0.0.1" | "[::1]")
    }
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mark = if is_digest(&self.which) { '@' } else { ':' };
        write!(f, "{}/{}{mark}{}", self.registry, self.name, self.which)
    }
}

/// Whether it is the name of some content. Others than this kind are rare, and are not understood.
pub(crate) fn is_digest(text: &str) -> bool {
    let digits = |hex: &str| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:").is_some_and(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_registry_and_which_image() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        for (text, registry, name, which, here) in [
            ("here.example/a", "here.example", "a", "latest", false),
            ("localhost/a/b:1.2_x-y", "localhost", "a/b", "1.2_x-y", true),
            ("127.0.0.1:5000/a.b-c", "127.0.0.1:5000", "a.b-c", "latest", true),
            ("[::1]:5000/a:T", "[::1]:5000", "a", "T", true),
            (&format!("x.y/a@{digest}"), "x.y", "a", &digest, false),
        ] {
            let found = Reference::parse(text).unwrap();
            assert_eq!((&*found.registry, &*found.name, &*found.which), (registry, name, which));
            assert_eq!(found.is_here(), here);
            assert_eq!(Reference::parse(&found.to_string()), Ok(found));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in [
            "",
            "a",
            "a/b",
            "library/a:1",
            "x.y/",
            "x.y/A",
            "x.y/a b",
            "x.y/../a",
            "x.y/a//b",
            "x.y/a:",
            "x.y/a:-1",
            "x.y/a:b/c",
            "x.y/a@sha256:0",
            "x.y/a@md5:00",
            "x y.z/a",
            "x.y@/a",
            "x.y/a?b",
            &format!("x.y/{}", "a".repeat(600)),
        ] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
    }
}
