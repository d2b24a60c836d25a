//! Text that must not be printed.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// A token or key. It serialises to its text (records on disk are private files), but formats as `***`, and compares
/// in time that does not depend on where two secrets differ.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes the text as a secret.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// `prefix` and `bytes` random bytes in lower-case hexadecimal.
    ///
    /// # Panics
    /// When the kernel has no randomness to give, which Linux rules out after boot.
    #[must_use]
    pub fn random(prefix: &str, bytes: usize) -> Self {
        let mut raw = vec![0_u8; bytes];
        getrandom::fill(&mut raw).expect("the kernel gives random bytes");
        let mut text = String::with_capacity(prefix.len() + 2 * bytes);
        text.push_str(prefix);
        for byte in raw {
            text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
            text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
        }
        Self(text.into())
    }

    /// The text itself, for the one place that must send or hash it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `candidate` is this secret, in constant time.
    #[must_use]
    pub fn matches(&self, candidate: &str) -> bool {
        self.0.as_bytes().ct_eq(candidate.as_bytes()).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.matches(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        let key = Secret::random("e2b_", 20);
        assert_eq!(key.expose().len(), 44);
        assert_eq!(format!("{key:?}"), "***");
    }

    #[test]
    fn only_the_same_text_matches() {
        let key = Secret::new("abc");
        assert!(key.matches("abc"));
        assert!(!key.matches("abcd") && !key.matches("") && !key.matches("abd"));
    }
}
