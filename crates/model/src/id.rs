//! One type per kind of identifier, so that they cannot be mixed up.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Characters of a generated identifier, after its prefix.
const RANDOM_CHARS: usize = 20;
/// No identifier is longer; what arrives from outside is cut off here before anything else looks at it.
const MAX_CHARS: usize = 64;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The text was not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: expected 1 to {MAX_CHARS} characters of a-z and 0-9")]
pub struct ParseIdError {
    kind: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// A fresh identifier from the kernel's random numbers.
            ///
            /// # Panics
            /// When the kernel has no randomness to give, which Linux rules out after boot.
            #[must_use]
            pub fn random() -> Self {
                Self(random_text($prefix).into())
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let ok = (1..=MAX_CHARS).contains(&text.len())
                    && text.bytes().all(|b| ALPHABET.contains(&b));
                if ok { Ok(Self(text.into())) } else { Err(ParseIdError { kind: $kind }) }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(
    /// A sandbox: `i` and twenty characters, the form that E2B clients accept in host names.
    SandboxId, "sandbox id", "i"
);
id!(
    /// A template.
    TemplateId, "template id", ""
);
id!(
    /// One build of a template: the artifacts a sandbox starts from.
    BuildId, "build id", ""
);
id!(
    /// A team: the owner of keys, templates and sandboxes.
    TeamId, "team id", ""
);
id!(
    /// An API key's name in records; not the key itself.
    KeyId, "key id", ""
);

fn random_text(prefix: &str) -> String {
    let mut text = String::with_capacity(prefix.len() + RANDOM_CHARS);
    text.push_str(prefix);
    let mut pool = [0_u8; 64];
    while text.len() < prefix.len() + RANDOM_CHARS {
        getrandom::fill(&mut pool).expect("the kernel gives random bytes");
        // 252 is the largest multiple of 36 that fits a byte: taking what lies below keeps every character equally likely.
        let fair = pool.iter().filter(|&&b| b < 252).map(|&b| char::from(ALPHABET[usize::from(b % 36)]));
        text.extend(fair.take(prefix.len() + RANDOM_CHARS - text.len()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_has_the_form_clients_accept() {
        let id = SandboxId::random();
        assert_eq!(id.as_str().len(), 21);
        assert!(id.as_str().starts_with('i'));
        assert_eq!(id.as_str().parse::<SandboxId>(), Ok(id));
    }

    #[test]
    fn two_random_ids_differ() {
        assert_ne!(SandboxId::random(), SandboxId::random());
    }

    #[test]
    fn what_could_leave_a_path_or_a_label_is_refused() {
        for bad in ["", "../x", "a/b", "UPPER", "a-b", "a.b", "ä", &"a".repeat(65)] {
            assert!(bad.parse::<SandboxId>().is_err(), "{bad:?}");
        }
    }
}
