use crate::LookupError;

/// The tag that a name without a tag means.
pub const DEFAULT_TAG: &str = "default";
/// No part of a name is longer, in bytes.
const MAX_PART: usize = 128;
/// How much of a malformed name an error repeats, in characters.
const MAX_SHOWN: usize = 80;

/// `[namespace/]name[:tag]`, in lower case. The name may be an alias or a template's identifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateName {
    /// The slug of the team whose template is meant.
    pub namespace: Option<String>,
    /// Alias or identifier.
    pub name: String,
    /// Which of the template's builds.
    pub tag: Option<String>,
}

impl TemplateName {
    /// Reads a name as clients write it.
    ///
    /// # Errors
    /// [`LookupError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, LookupError> {
        let malformed = || {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
            LookupError::Malformed(shown)
        };
        let (path, tag) = match text.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (text, None),
        };
        let (namespace, name) = match path.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, path),
        };
        let ok = is_identifier(name) && namespace.is_none_or(is_identifier) && tag.is_none_or(is_tag);
        if !ok {
            return Err(malformed());
        }
        Ok(Self {
            namespace: namespace.map(str::to_ascii_lowercase),
            name: name.to_ascii_lowercase(),
            tag: tag.map(str::to_ascii_lowercase),
        })
    }

    /// The name without its tag.
    #[must_use]
    pub fn untagged(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{namespace}/{}", self.name),
            None => self.name.clone(),
        }
    }

    /// The tag that is meant.
    #[must_use]
    pub fn tag_or_default(&self) -> &str {
        self.tag.as_deref().unwrap_or(DEFAULT_TAG)
    }
}

/// Whether a text can be an alias or a namespace.
pub(crate) fn is_identifier(text: &str) -> bool {
    (1..=MAX_PART).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn is_tag(text: &str) -> bool {
    (1..=MAX_PART).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_name() {
        let full = TemplateName::parse("Team-1/My_App:v1.2").unwrap();
        assert_eq!(full.namespace.as_deref(), Some("team-1"));
        assert_eq!(full.name, "my_app");
        assert_eq!(full.tag.as_deref(), Some("v1.2"));
        assert_eq!(full.untagged(), "team-1/my_app");
        let bare = TemplateName::parse("base").unwrap();
        assert_eq!((bare.namespace.as_deref(), bare.tag_or_default()), (None, "default"));
    }

    #[test]
    fn what_is_no_name() {
        let long = "a".repeat(129);
        for bad in
            ["", "/", "a/", "/a", "a/b/c", "a:", ":a", "a:b:c", "a b", "ä", "a\0", "../etc", long.as_str()]
        {
            assert!(TemplateName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
